"""A shop's customer-service assistant: a 135M-parameter chat model tuned with LoRA.

Loss on the answers of unseen scenarios 3.62 before, 2.08 after three epochs (-42 %), perplexity
37.2 before, 8.0 after; 4,884,480 trained parameters, 19.6 MB saved; 9 minutes and 4.7 GB on 2
CPU cores.

    python recipes/chat_lora.py
    peftkit chat runs/chat_lora
"""

from peftkit import Base, Chat, Conversations, LoRA, Recipe, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Chat(
            data=Conversations(path="packaged:lantern-lane", group="scenario", stratum="language"),
        ),
        method=LoRA(r=16, lora_alpha=32, target_modules="all-linear"),
        training=Training(learning_rate=1e-3, num_epochs=3, batch_size=16, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
