"""What a paper found, in a sentence, from its abstract, written by a 135M-parameter chat model.

ACLSum's summaries of outcomes: 100 papers to train on, 50 to validate, 100 to test, for trying.

    python recipes/summarization.py
    python recipes/summarization.py --task.data.path articles.jsonl --task.data.text article
"""

from peftkit import Base, Documents, Generation, LoRA, Recipe, Summarization, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Summarization(
            data=Documents(path="packaged:acl-summaries", subset="outcome", text="abstract"),
            instruction="Say in one sentence what the paper found.\n\n{source}",
            max_length=384,
            generation=Generation(max_new_tokens=64),
        ),
        method=LoRA(r=16, lora_alpha=32, target_modules="all-linear"),
        training=Training(learning_rate=5e-4, num_epochs=3, batch_size=8, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
