"""Slots of commands to a house assistant, English: rooms, devices, times, items and the like.

pip install home-assistant-intents hassil
python recipes/entities_en.py
python recipes/entities_en.py --task.data.path mine.jsonl  # with columns text, spans, template
"""

from peftkit import Base, LoRA, Recipe, TaggedWords, TokenClassification, Training, main


def recipe() -> Recipe:
    data = TaggedWords(
        path="packaged:home-assistant-intents", subset="en", spans="spans", group="template"
    )
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TokenClassification(data=data),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=3e-3, num_epochs=2, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
