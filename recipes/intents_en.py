"""Commands to a house assistant by intent, English: sentences from the package's templates.

pip install home-assistant-intents hassil
python recipes/intents_en.py
python recipes/intents_en.py --task.data.path mine.csv  # with columns text, intent and template
"""

from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training, main


def recipe() -> Recipe:
    data = Data(
        path="packaged:home-assistant-intents", subset="en", label="intent", group="template"
    )
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=data, pooling="mean"),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=3e-3, num_epochs=2, batch_size=32),
    )


if __name__ == "__main__":
    main(recipe)
