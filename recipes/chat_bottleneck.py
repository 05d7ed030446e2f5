"""A customer-service assistant by LoRA on a 135M-parameter chat model: TODO"""

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
