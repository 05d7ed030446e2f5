"""A shop's customer-service assistant: prefix tuning, keys and values before the conversation.

Loss on the answers of unseen scenarios 3.62 before, 2.46 after three epochs (-32 %), perplexity
37.2 before, 11.7 after; 230,400 trained parameters, 0.9 MB saved; 9 minutes and 3.1 GB on 2
CPU cores.

    python recipes/chat_prefix.py
    peftkit chat runs/chat_prefix
"""

from peftkit import Base, Chat, Conversations, PrefixTuning, Recipe, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Chat(
            data=Conversations(path="packaged:lantern-lane", group="scenario", stratum="language"),
        ),
        method=PrefixTuning(num_virtual_tokens=20),
        training=Training(learning_rate=3e-2, num_epochs=3, batch_size=16, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
