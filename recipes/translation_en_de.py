"""Messages of a program's interface, English to German, written by a 135M-parameter chat model.

Django's own catalogue, 512 short messages, for trying. chrF of 20 unseen ones 0.12 before, 0.38
after; 14 minutes and 2.5 GB on one CPU core.

    python recipes/translation_en_de.py
    python recipes/translation_en_de.py --task.data.path pairs.jsonl  # rows of `source`, `target`
"""

from peftkit import Base, Generation, LoRA, Pairs, Recipe, Training, Translation, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Translation(
            data=Pairs(path="packaged:django-messages", subset="de"),
            instruction="Translate from English to German.\n\n{source}",
            generation=Generation(max_new_tokens=64),
        ),
        method=LoRA(r=16, lora_alpha=32, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=3, batch_size=16, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
