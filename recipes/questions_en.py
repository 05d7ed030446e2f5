"""Questions about an invented town, answered with a span of a passage, English.

A sample of peftkit's own, for trying: 48 passages, 144 questions.

python recipes/questions_en.py
python recipes/questions_en.py --task.data.path train.json  # a SQuAD file
"""

from peftkit import Base, LoRA, QuestionAnswering, Questions, Recipe, Training, main


def recipe() -> Recipe:
    data = Questions(
        path="packaged:tern-harbour-answers", subset="en",
        validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    return Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=QuestionAnswering(data=data),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=Training(learning_rate=2e-3, num_epochs=12, batch_size=8),
    )


if __name__ == "__main__":
    main(recipe)
