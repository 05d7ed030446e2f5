"""Passages about an invented town, ranked by whether they answer a question, English.

A sample of peftkit's own, for trying: 48 passages, 144 questions, six candidates each.

    python recipes/ranking_en.py
    python recipes/ranking_en.py --task.data.path mine.csv  # text, text_pair, score, query, block
"""

from peftkit import Base, LoRA, Recipe, ScoredPairs, TextPairScoring, Training, main


def recipe() -> Recipe:
    data = ScoredPairs(
        path="packaged:tern-harbour", subset="en", query="query", group="block",
        validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextPairScoring(data=data, objective="listwise", pooling="mean"),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=8, batch_size=8),
    )


if __name__ == "__main__":
    main(recipe)
