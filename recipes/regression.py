"""A number for a text: movie reviews with a constructed score, so that all can see what is learnt.

The score is 50, 20 more or less by the review's label, 5 more or less for each word of praise or
blame, and its number of words up to 25 (peftkit/data/review_scores.py). Nobody gave these scores.

    python recipes/regression.py
"""

from peftkit import Base, LoRA, Numbers, Recipe, TextRegression, Training, main


def recipe() -> Recipe:
    data = Numbers(path="packaged:movie-review-scores", subset="rotten_tomatoes")
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextRegression(data=data, pooling="mean"),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=2, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
