"""A shop's customer-service assistant: small networks inside the blocks of a chat model.

Loss on the answers of unseen scenarios 3.62 before, 1.98 after three epochs (-45 %), perplexity
37.2 before, 7.2 after; 5,015,520 trained parameters, 20.1 MB saved; 12 minutes and 3.9 GB on 2
CPU cores.

    python recipes/chat_bottleneck.py
    peftkit chat runs/chat_bottleneck
"""

from peftkit import Base, BottleneckAdapter, Chat, Conversations, Recipe, Training, main


def recipe() -> Recipe:
    return Recipe(
        base=Base(name_or_path="packaged:smollm2-135m-instruct"),
        task=Chat(
            data=Conversations(path="packaged:lantern-lane", group="scenario", stratum="language"),
        ),
        method=BottleneckAdapter(placement="houlsby", reduction_factor=8),
        training=Training(learning_rate=3e-3, num_epochs=3, batch_size=16, micro_batch_tokens=1024),
    )


if __name__ == "__main__":
    main(recipe)
