"""A shop's customer-service assistant: all weights of a chat model trained, as the baseline.

Loss on the answers of unseen scenarios 3.62 before, 1.98 after three epochs (-45 %), perplexity
37.2 before, 7.3 after; 134,515,008 trained parameters, 538 MB saved; 12 minutes and 5.6 GB on 2
CPU cores.

    python recipes/chat_full.py
    peftkit chat runs/chat_full
"""

from peftkit import Base, Chat, Conversations, FullFineTuning, Recipe, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Chat(
            data=Conversations(path="packaged:lantern-lane", group="scenario", stratum="language"),
        ),
        method=FullFineTuning(),
        training=Training(learning_rate=1e-4, num_epochs=3, batch_size=16, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
