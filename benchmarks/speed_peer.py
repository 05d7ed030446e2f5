"""One variant of benchmarks/speed.py, in a process of its own, that trains a turn at a time.

    python benchmarks/speed_peer.py FOLDER peftkit|hf|trl|matmul lora|full|head OPTIONS

FOLDER holds work.json and start.safetensors, as speed.py writes them; OPTIONS is JSON, further
arguments of the trainer. A line on stdin lets it do one turn (an optimizer step, or an epoch); it
answers with a line of JSON on stdout, and after the last turn with one that sums up.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16}
NEVER = 10**6
"""Steps between validations: the peers have none."""
TOKENS = 1024
"""Rows of the matrix products by which the processor's rate is known."""
HF = {
    "text": ("AutoModelForSequenceClassification", "SEQ_CLS", "DataCollatorWithPadding"),
    "words": ("AutoModelForTokenClassification", "TOKEN_CLS", "DataCollatorForTokenClassification"),
    "questions": ("AutoModelForQuestionAnswering", "QUESTION_ANS", "DataCollatorWithPadding"),
    "chat": ("AutoModelForCausalLM", "CAUSAL_LM", "DataCollatorForSeq2Seq"),
}
"""What an example is -> class of the model in transformers, PEFT's task type, collator."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""BERT's; SmolLM2 has none. peftkit does the same for `Training(dropout=0)`."""


class Turns:
    """Waits for the parent's line before each turn, and reports what the turn took."""

    def __init__(self, steps_per_turn: int, device: str = "cpu") -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not come between the answers
        self.steps_per_turn = steps_per_turn
        self.cuda: Any = None
        if device == "cuda":
            import torch

            self.cuda = torch.cuda
        self.steps = 0
        self.losses: list[float] = []
        self.counts = {"useful_tokens": 0, "padded_tokens": 0, "examples": 0}
        self.peak_loading_mb = self.loaded_mb = 0.0

    def begin(self) -> None:
        """Training is about to begin: everything is loaded."""
        self.peak_loading_mb = peak_memory_mb()
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak of training alone
        self.loaded_mb = resident_memory_mb()
        self._answer({"ready": True})
        self._wait()

    def count(self, useful_tokens: int, padded_tokens: int, examples: int) -> None:
        """Notes a batch; padded tokens are what the model was given."""
        self.counts["useful_tokens"] += useful_tokens
        self.counts["padded_tokens"] += padded_tokens
        self.counts["examples"] += examples

    def step(self) -> None:
        """An optimizer step is done; ends the turn if it was the turn's last."""
        self.steps += 1
        if self.steps % self.steps_per_turn == 0:
            if self.cuda:
                self.cuda.synchronize()
            took = {
                "cpu_seconds": time.process_time() - self.cpu,
                "wall_seconds": time.perf_counter() - self.wall,
            }
            self._answer({"step": self.steps, **took, **self.counts})
            self.counts = dict.fromkeys(self.counts, 0)
            self._wait()

    def finish(self, **found: Any) -> None:
        """Sums up; the peak is that of the steps, without what comes before and after them."""
        peaks = {
            "peak_memory_mb": self.peak_mb,
            "peak_with_loading_mb": self.peak_loading_mb,
            "loaded_mb": self.loaded_mb,
        }
        if self.cuda:
            peaks["allocated_gib"] = self.cuda.max_memory_allocated() / 2**30
            peaks["reserved_gib"] = self.cuda.max_memory_reserved() / 2**30
        self._answer({"losses": self.losses, "versions": versions(), **peaks, **found})

    def _answer(self, answer: dict[str, Any]) -> None:
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()

    def _wait(self) -> None:
        self.peak_mb = peak_memory_mb()
        if not sys.stdin.readline():
            sys.exit("the parent is gone")
        self.cpu, self.wall = time.process_time(), time.perf_counter()


def peak_memory_mb() -> float:
    """Most memory resident in this process since it began, or since the peak was cleared."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_memory_mb() -> float:
    """Memory resident in this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "trl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def recipe_of(work: dict[str, Any], method: Any) -> Any:
    """The recipe of a workload with a method."""
    from peftkit import Base, Recipe, Training

    training = Training(
        learning_rate=work["learning_rate"],
        head_learning_rate=work["learning_rate"],  # HF has one rate
        batch_size=work["batch_size"],
        num_epochs=max(1, math.ceil(work["steps"] * work["batch_size"] / work["num_rows"])),
        max_steps=work["steps"],
        warmup_ratio=0,  # HF's warm-up begins at zero, peftkit's above it
        dropout=0.0,
        evaluate_every=NEVER,
        **work.get("training", {}),
    )
    base = Base(name_or_path=work["base"], **work.get("precision", {}))
    return Recipe(base=base, task=task_of(work), method=method, training=training)


def task_of(work: dict[str, Any]) -> Any:
    """The task of a workload."""
    from peftkit import (
        Chat,
        Conversations,
        Data,
        QuestionAnswering,
        Questions,
        TaggedWords,
        TextClassification,
        TokenClassification,
    )

    path = work["data"]
    if work["kind"] == "chat":
        longest = work.get("max_length", 512)
        return Chat(data=Conversations(path=path), max_length=longest, samples=0)
    if work["kind"] == "words":
        return TokenClassification(data=TaggedWords(path=path))
    if work["kind"] == "questions":
        return QuestionAnswering(data=Questions(path=path), max_length=512)
    return TextClassification(data=Data(path=path))


def method_of(work: dict[str, Any], name: str) -> tuple[type[Any], dict[str, Any]]:
    """A method's class, and the fields it is made with."""
    from peftkit import FullFineTuning, HeadOnly, LoRA

    fields = {**work.get("lora", LORA), "target_modules": work["target_modules"]}
    return {"lora": (LoRA, fields), "full": (FullFineTuning, {}), "head": (HeadOnly, {})}[name]


def peftkit(work: dict[str, Any], method: str, _: dict[str, Any], turns: Turns) -> None:
    """Trains with peftkit as a recipe does, through `train_and_score`."""
    from rich.console import Console

    from peftkit.bases.devices import open_accelerator
    from peftkit.bases.products import use_fast_products
    from peftkit.stages.fitting import train_and_score
    from peftkit.stages.outcome import Clock
    from peftkit.stages.preparing import prepare

    kind, fields = method_of(work, method)
    prepared = prepare(recipe_of(work, method_in_turns(kind, work, turns)(**fields)))
    use_fast_products()
    accelerator = open_accelerator(prepared.recipe.base)
    _, outcome = train_and_score(prepared, accelerator, Clock(), Console(quiet=True))
    result = outcome.result
    turns.losses = [record.loss for record in result.history]
    turns.finish(
        gradient_norms=[record.gradient_norm for record in result.history],
        padding=1 - result.num_tokens / result.num_padded_tokens,
        trainable_parameters=outcome.trainable_parameters,
    )


def method_in_turns(method: type[Any], work: dict[str, Any], turns: Turns) -> type[Any]:
    """A peftkit method that begins at the given tensors and takes turns."""
    from peftkit.training.forward.steps import seeded_steps

    class InTurns(method):  # type: ignore[misc]
        def inject(self, model: Any, encoded: Any, head: tuple[str, ...]) -> Any:
            injected = super().inject(model, encoded, head)
            if not next(injected.parameters()).is_meta:  # `prepare` rehearses there
                begin_at(injected, work)
            return injected

        def undecayed(self, model: Any) -> Any:
            turns.begin()  # asked once, for the optimizer
            return super().undecayed(model)

        def after_step(self, model: Any, step: int, num_steps: int) -> None:
            super().after_step(model, step, num_steps)
            tokens = sum(lengths[index] for index in steps[step - 1].indices)
            turns.count(tokens, 0, len(steps[step - 1].indices))
            turns.step()

    lengths = lengths_of(work)
    steps = list(seeded_steps(len(lengths), work["batch_size"], work["steps"], seed=0))
    return InTurns


def begin_at(model: Any, work: dict[str, Any]) -> None:
    """Gives a model's new tensors the values that all variants begin at."""
    from safetensors.torch import load_file

    start = load_file(work["start"])
    own = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    if any(".lora_A." in name for name in own) and own.keys() != start.keys():
        raise SystemExit(f"trained and given tensors differ: {sorted(own.keys() ^ start.keys())}")
    for name in own.keys() & start.keys():
        own[name].data.copy_(start[name])


def plain(name: str) -> str:
    """A parameter's name without what PEFT puts around it."""
    return name.replace("base_model.model.", "").replace(".modules_to_save.default", "")


def hf(work: dict[str, Any], method: str, options: dict[str, Any], turns: Turns) -> None:
    """Trains with HF Trainer and PEFT, as their documentation does it."""
    import transformers
    from transformers import Trainer, TrainingArguments

    grouped = options.pop("group_by_length", False)
    order = grouped_order(work) if grouped else work["order"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(work["folder"])
    collator = getattr(transformers, HF[work["kind"]][2])
    trainer = trainer_in_turns(Trainer, turns)(
        model=peer_model(work, method),
        args=TrainingArguments(**arguments_of(work), **options),
        train_dataset=[work["rows"][index] for index in order],
        data_collator=collator(tokenizer, padding=True),
    )
    train_peer(trainer, turns, work)


def trl(work: dict[str, Any], method: str, options: dict[str, Any], turns: Turns) -> None:
    """Trains with TRL's SFTTrainer, whose own head skips unlabelled positions on GPUs only."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    if options.get("packing"):  # rows as long as a batch is on average
        options["per_device_train_batch_size"] = 1
        tokens = sum(lengths_of(work)[index] for index in work["order"])
        options["max_length"] = math.ceil(tokens / work["steps"])
    settings = {**arguments_of(work), "max_length": None}
    trainer = trainer_in_turns(SFTTrainer, turns)(
        model=peer_model(work, method),
        args=SFTConfig(**{**settings, **options}),
        train_dataset=Dataset.from_list([work["rows"][index] for index in work["order"]]),
        processing_class=AutoTokenizer.from_pretrained(work["folder"]),
    )
    train_peer(trainer, turns, work)


def peer_model(work: dict[str, Any], method: str) -> Any:
    """The base with PEFT's LoRA on the layers that peftkit adapts, or whole."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    name, task_type, _ = HF[work["kind"]]
    options: dict[str, Any] = {}
    if work["kind"] != "chat":
        options = {"num_labels": work["num_labels"] or 2, **NO_DROPOUT}
    if work.get("precision", {}).get("quantization"):
        options = {"quantization_config": four_bits(), "device_map": {"": 0}}
    dtype = getattr(torch, work.get("dtype", "float32"))
    kind = getattr(transformers, name)
    model = kind.from_pretrained(work["folder"], dtype=dtype, **options)
    if method == "lora":
        config = LoraConfig(
            **work.get("lora", LORA), target_modules=work["layers"], task_type=task_type
        )
        model = get_peft_model(model, config)
    begin_at(model, work)
    return model


def four_bits() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def arguments_of(work: dict[str, Any]) -> dict[str, Any]:
    """Training arguments that make a peer do what peftkit's recipe does."""
    return {
        "output_dir": str(Path(work["data"]) / "peer"),
        "per_device_train_batch_size": work["batch_size"],
        "max_steps": work["steps"],
        "learning_rate": work["learning_rate"],
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",  # the rows are laid out in order
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": work.get("device", "cpu") == "cpu",
        "bf16": work.get("dtype") == "bfloat16",
        "gradient_checkpointing": work.get("training", {}).get("gradient_checkpointing", False),
        "seed": 0,
    }


def lengths_of(work: dict[str, Any]) -> list[int]:
    return [len(row["input_ids"]) for row in work["rows"]]


def grouped_order(work: dict[str, Any]) -> list[int]:
    """Rows in batches of similar lengths, as HF's `group_by_length` makes them. They come longest
    first, so that of less than an epoch an even sample is taken, in random order.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    batches: list[list[int]] = []
    size, wanted, lengths = work["batch_size"], work["steps"], lengths_of(work)
    for epoch in range(math.ceil(wanted * size / len(lengths))):
        generator = torch.Generator().manual_seed(epoch)
        order = list(LengthGroupedSampler(size, lengths=lengths, generator=generator))
        batches += [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
    if wanted < len(batches):
        batches.sort(key=lambda batch: max(lengths[index] for index in batch))
        sample = [batches[int((k + 0.5) * len(batches) / wanted)] for k in range(wanted)]
        batches = [sample[k] for k in torch.randperm(wanted, generator=generator).tolist()]
    return [index for batch in batches for index in batch]


def trainer_in_turns(trainer: type[Any], turns: Turns) -> type[Any]:
    """A trainer that notes what its model is given, and each step's loss."""

    class InTurns(trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            turns.count(*sizes(inputs))
            loss = super().training_step(model, inputs, *rest, **more)
            turns.losses.append(float(loss))
            return loss

    return InTurns


def sizes(inputs: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens without and with padding, and examples, of a batch."""
    ids = inputs["input_ids"]
    if "attention_mask" in inputs:
        return int(inputs["attention_mask"].sum()), ids.numel(), len(ids)
    return ids.numel(), ids.numel(), int((inputs["position_ids"] == 0).sum())


def train_peer(trainer: Any, turns: Turns, work: dict[str, Any]) -> None:
    from transformers import TrainerCallback

    norms: list[float] = []
    """Of the clipped gradients, in the first and the last step: zero if nothing is learned."""

    class TakeTurns(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            if work.get("norms") and turns.steps in (0, work["steps"] - 1):
                found = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
                norms.append(float(sum(norm**2 for norm in found)) ** 0.5)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step()

    trainer.add_callback(TakeTurns)
    trainer.train()
    trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    turns.finish(trainable_parameters=sum(trained), gradient_norms=norms)


def matmul(work: dict[str, Any], _: str, __: dict[str, Any], turns: Turns) -> None:
    """Multiplies matrices of the model's own shapes, in float32 with the faster library; reports
    multiplications and additions.
    """
    import torch

    from peftkit.bases.products import use_fast_products

    tokens = work.get("matmul_tokens", TOKENS)
    torch.set_default_device(work.get("device", "cpu"))
    torch.set_default_dtype(getattr(torch, work.get("dtype", "float32")))
    use_fast_products()
    products = [
        (torch.randn(tokens, w), torch.randn(h, w).T, times) for (h, w), times in work["shapes"]
    ]
    turns.begin()
    for _ in range(work["steps"]):
        for left, right, times in products:
            for _ in range(times):
                left @ right
        turns.step()
    flop = sum(2 * tokens * right.numel() * times for _, right, times in products)
    turns.finish(flop=flop * work["steps_per_turn"])


if __name__ == "__main__":
    folder, kind, method, options = sys.argv[1:]
    content = json.loads((Path(folder) / "work.json").read_text())
    run = {"peftkit": peftkit, "hf": hf, "trl": trl, "matmul": matmul}[kind]
    turns = Turns(content["steps_per_turn"], content.get("device", "cpu"))
    run(content, method, json.loads(options), turns)
