"""Relations between people, things and places of an invented valley, English.

python recipes/relations_en.py
python recipes/relations_en.py --task.data.path mine.jsonl  # with columns text, pairs
"""

from peftkit import Base, LoRA, MarkedTexts, Recipe, RelationExtraction, Training, main


def recipe() -> Recipe:
    data = MarkedTexts(path="packaged:alder-vale", subset="en", pairs="pairs", test_fraction=0.25)
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=RelationExtraction(data=data),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(
            learning_rate=3e-3, num_epochs=20, batch_size=16, early_stopping_patience=0
        ),
    )


if __name__ == "__main__":
    main(recipe)
