"""Questions about an invented town, answered in the words of a 135M-parameter chat model.

A sample of peftkit's own, for trying: 48 passages, 144 questions.

    python recipes/qa_generative.py
    python recipes/qa_generative.py --task.data.path train.json  # a SQuAD file
"""

from peftkit import Answered, Base, Generation, GenerativeAnswering, LoRA, Recipe, Training, main


def recipe() -> Recipe:
    data = Answered(
        path="packaged:tern-harbour-answers", subset="en", context="context", group="title",
        validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=GenerativeAnswering(
            data=data, max_length=384, generation=Generation(max_new_tokens=24)
        ),
        method=LoRA(r=16, lora_alpha=32, target_modules="all-linear"),
        training=Training(learning_rate=5e-4, num_epochs=4, batch_size=8, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
