"""How fast peftkit trains beside its peers: the same rows, weights and steps, turn by turn.

    sh benchmarks/peers.sh
    python benchmarks/speed.py [--steps 20] [--warmup 3] [--only W1a,W2]
                               [--variants "HF default,TRL packing"] [--data FOLDER]

Every variant is a process of its own (speed_peer.py), and they take turns: while one does an
optimizer step, the others wait. peftkit runs beside two peers at a time, and always. Writes
benchmarks/speed.json, speed.png and its part of README.md; what is not measured anew is kept.
FOLDER holds banking77/ and wnut17/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import speed_peer
import speed_report
from speed_workloads import (
    FROM_FOLDER,
    HELD_OUT,
    HERE,
    MATMUL,
    OURS,
    SAME_BATCHES,
    VARIANTS,
    WORKLOADS,
    Workload,
)

if TYPE_CHECKING:
    from peftkit.bases.loaded_model import LoadedModel

RESULT = HERE / "speed.json"
AT_ONCE = 2
"""Peers beside peftkit; each may take 8 GB."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # else a thread that waits for another one, of which something else has the core, spins, and its
    # CPU-seconds double
    "OMP_WAIT_POLICY": "passive",
}


def main(arguments: argparse.Namespace) -> None:
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in arguments.only:
        workload = WORKLOADS[name]
        if workload.rows in FROM_FOLDER and not arguments.data:
            print(f"{name} needs --data", flush=True)
            continue
        print(f"{name}: {workload.title}", flush=True)
        peers = [peer for peer in workload.peers if peer in arguments.variants]
        if not all(Path(VARIANTS[peer].python).is_file() for peer in peers):
            sys.exit("the peers have no environment: sh benchmarks/peers.sh")
        with tempfile.TemporaryDirectory() as scratch:
            work = prepare_work(workload, Path(scratch), arguments)
            measured = measure(workload, work, peers, Path(scratch))
        results["machine"] = machine()
        before = results.setdefault("workloads", {}).get(name, {"variants": {}})
        measured["variants"] = {**before["variants"], **measured["variants"]}
        results["workloads"][name] = measured
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    speed_report.write(results, HERE)


def prepare_work(
    workload: Workload, scratch: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What every variant must know: rows as tokens, their order, where the new tensors begin."""
    num_rows = write_rows(workload, scratch, Path(arguments.data))
    per_epoch = math.ceil(num_rows / workload.batch_size)
    turns = workload.epochs or arguments.warmup + arguments.steps
    if not workload.epochs and turns > per_epoch:
        sys.exit(f"an epoch has {per_epoch} steps; lower --steps")
    work: dict[str, Any] = {
        "base": workload.base,
        "kind": workload.kind,
        "data": str(scratch),
        "batch_size": workload.batch_size,
        "learning_rate": workload.learning_rate,
        "target_modules": workload.target_modules,
        "turns": turns,
        "warmup": 0 if workload.epochs else arguments.warmup,
        "steps_per_turn": per_epoch if workload.epochs else 1,
        "steps": turns * (per_epoch if workload.epochs else 1),
        "num_rows": num_rows,
        "start": str(scratch / "start.safetensors"),
    }
    return complete(work, scratch, with_weights)


def complete(
    work: dict[str, Any], scratch: Path, load: Callable[[Any], LoadedModel]
) -> dict[str, Any]:
    """Adds what peftkit makes of the workload, and writes it for the variants.

    Args:
        load: gives the base of a prepared recipe.
    """
    from peftkit.stages.preparing import prepare

    kind, fields = speed_peer.method_of(work, "lora")
    prepared = prepare(speed_peer.recipe_of(work, kind(**fields)))
    work |= {"folder": str(prepared.base.folder), **encoded_rows(prepared, work)}
    work |= save_start(prepared, load(prepared), Path(work["start"]))
    (scratch / "work.json").write_text(json.dumps(work))
    return work


def write_rows(workload: Workload, scratch: Path, data: Path) -> int:
    """Writes the three splits as peftkit reads them; gives the number of training rows."""
    rows = workload.rows(data)
    num_rows = len(rows) - 2 * HELD_OUT
    splits = {
        "train": rows[:num_rows],
        "validation": rows[num_rows:][:HELD_OUT],
        "test": rows[num_rows:][HELD_OUT:],
    }
    for name, split in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in split)
        (scratch / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return num_rows


def labels_of(examples: Any, example: int, kind: str) -> dict[str, Any]:
    """As HF takes them. Where a token is predicted, peftkit counts the place that predicts it, HF
    the token's own.
    """
    targets = examples.targets[examples.outputs_of(example)]
    if kind == "text":
        return {"labels": int(targets[0])}
    places = examples.read_at[example][:, 0]
    if kind == "questions":
        start, end = places[targets.argmax(axis=0)].tolist()
        return {"start_positions": start, "end_positions": end}
    labels = [-100] * len(examples.input_ids[example])
    for place, target in zip(places, targets.tolist(), strict=True):
        labels[place + (kind == "chat")] = target
    return {"labels": labels}


def encoded_rows(prepared: Any, work: dict[str, Any]) -> dict[str, Any]:
    """The training rows as tokens and labels as HF takes them, in the file's order, and the order
    in which peftkit reads them.
    """
    from peftkit.training.forward.steps import seeded_steps

    examples, labels = prepared.encoded.train, prepared.encoded.head.labels
    if len(examples) != work["num_rows"]:
        sys.exit(f"{work['num_rows']} rows were written, and peftkit reads {len(examples)}")
    rows = [
        {"input_ids": ids.tolist(), **labels_of(examples, example, work["kind"])}
        for example, ids in enumerate(examples.input_ids)
    ]
    steps = seeded_steps(len(rows), work["batch_size"], work["steps"], seed=0)
    return {
        "rows": rows,
        "num_labels": len(labels),
        "order": [index for step in steps for index in step.indices],
        "labelled_share": examples.num_supervised / examples.num_tokens,
    }


def with_weights(prepared: Any) -> LoadedModel:
    import torch

    from peftkit.bases.loading import load_weights

    torch.manual_seed(0)
    cpu = torch.device("cpu")
    return load_weights(prepared.base, prepared.encoded.head, torch.float32, cpu, 0.0)


def save_start(prepared: Any, loaded: LoadedModel, target: Path) -> dict[str, Any]:
    """Writes what LoRA's tensors and the head begin at, drawn as PEFT does where the base has no
    weights; gives the layers' names and shapes.
    """
    from safetensors.torch import save_file

    from peftkit.methods.method import trainable_parameters
    from peftkit.methods.peft.layers import lora_layers
    from peftkit.methods.targets.layers import linear_names

    base: Any = loaded.model
    passed = [name for name in linear_names(base, loaded.head) if ".pooler." not in name]
    shapes = Counter(tuple(base.get_submodule(name).weight.shape) for name in passed)
    output = base.get_output_embeddings()
    model = prepared.recipe.method.inject(base, prepared.encoded, loaded.head)
    start = {
        speed_peer.plain(name): drawn(name, p) if p.is_meta else p.data.contiguous()
        for name, p in trainable_parameters(model).items()
    }
    save_file(start, target)
    return {
        "layers": list(lora_layers(model)),
        "shapes": list(shapes.items()),
        "output_weights": 0 if output is None else output.weight.numel(),
    }


def drawn(name: str, parameter: Any) -> Any:
    """A of LoRA at random, B at zero."""
    import torch

    tensor = torch.zeros(parameter.shape)
    if ".lora_A." in name:
        torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
    return tensor


class ChildError(Exception):
    """A variant's process ended before it should."""


class Child:
    """A variant's process, which trains a turn whenever it is asked."""

    def __init__(self, name: str, method: str, scratch: Path) -> None:
        variant = VARIANTS[name]
        self.log = scratch / f"{name}.log"
        script, options = str(HERE / "speed_peer.py"), json.dumps(variant.options)
        command = [variant.python, script, str(scratch), variant.kind, method, options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def ask(self) -> None:
        """Lets it do a turn."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Waits for its answer.

        Raises:
            ChildError: there will be none.
        """
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return dict(json.loads(line))
        self.process.wait()
        lines = self.log.read_text().strip().splitlines()
        print(*lines[-20:], sep="\n", file=sys.stderr)
        raise ChildError(lines[-1] if lines else f"ended with {self.process.returncode}")


def take_turns(
    names: list[str], workload: Workload, turns: int, scratch: Path
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Any]]]:
    """Lets variants train turn by turn; gives the answers of each, and what it said at its end or
    why it ended before.
    """
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    last: dict[str, dict[str, Any]] = {}
    children: dict[str, Child] = {}
    for turn in range(-1, turns + 1):  # first they load, then there are turns, then they sum up
        for name in [name for name in names if name not in last]:
            try:
                if turn < 0:
                    method = VARIANTS[name].method or workload.method
                    children[name] = Child(name, method, scratch)
                else:
                    children[name].ask()
                answer = children[name].answer()
            except ChildError as error:
                last[name] = {"note": str(error)}
                continue
            if 0 <= turn < turns:
                answers[name].append(answer)
            elif turn == turns:
                last[name] = answer
                children[name].process.wait()
        print(f"  turn {turn} of {turns}: {', '.join(children)}", flush=True)
    return answers, last


def measure(
    workload: Workload, work: dict[str, Any], peers: list[str], scratch: Path
) -> dict[str, Any]:
    """What speed.json holds of a workload."""
    variants: dict[str, dict[str, Any]] = {}
    ours: list[dict[str, Any]] = []
    rates: list[float] = []
    for at in range(0, max(1, len(peers)), AT_ONCE):
        names = [OURS, *peers[at : at + AT_ONCE], *([] if workload.epochs else [MATMUL])]
        answers, last = take_turns(names, workload, work["turns"], scratch)
        timed = {name: turns[work["warmup"] :] for name, turns in answers.items()}
        if MATMUL in names:
            flop = last.pop(MATMUL)["flop"]
            rates += [flop / turn["cpu_seconds"] for turn in timed[MATMUL]]
        ours += timed[OURS]
        if "note" in last[OURS]:
            sys.exit(f"peftkit itself ended: {last[OURS]['note']}")
        our_rate = per_cpu_second(timed[OURS])
        for name, end in last.items():
            variants[name] = end
            if "note" not in end:
                of_peftkit = per_cpu_second(timed[name]) / our_rate
                variants[name] |= {**summary(timed[name]), "of_peftkit": of_peftkit}
        variants[OURS] |= summary(ours)
    measured = {"title": workload.title, "epochs": workload.epochs, "variants": variants}
    if rates:
        measured["gflop_per_cpu_second"] = float(np.median(rates)) / 1e9
    for name, variant in variants.items():
        if "note" not in variant:
            compare(name, variant, measured, flop_per_token(name, workload, work))
    return measured


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics over the timed turns of a variant."""
    found: dict[str, Any] = {"turns": len(turns)}
    for kind in ("cpu_seconds", "wall_seconds"):
        seconds = [turn[kind] for turn in turns]
        p10, median, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
        found[kind] = {"median": median, "p10": p10, "p90": p90, "all": seconds}
    found["useful_tokens_per_cpu_second"] = per_cpu_second(turns)
    found["examples_per_cpu_second"] = per_cpu_second(turns, "examples")
    if padded := sum(turn["padded_tokens"] for turn in turns):  # peftkit says it at its end
        found["padding"] = 1 - sum(turn["useful_tokens"] for turn in turns) / padded
    return found


def per_cpu_second(turns: list[dict[str, Any]], what: str = "useful_tokens") -> float:
    return sum(turn[what] for turn in turns) / sum(turn["cpu_seconds"] for turn in turns)


def flop_per_token(name: str, workload: Workload, work: dict[str, Any]) -> float:
    """Least multiplications and additions for a token without padding.

    2 for each weight of a linear layer that the token passes, and 2 for the gradient of its
    input; 2 more for the weight's own where it is trained. Of the language model's output layer
    only for the tokens that have a label.
    """
    method = VARIANTS[name].method or workload.method
    weights = sum(math.prod(shape) * times for shape, times in work["shapes"])
    weights += work["output_weights"] * work["labelled_share"]
    return (6 if method == "full" else 4) * float(weights)


def compare(name: str, variant: dict[str, Any], measured: dict[str, Any], flop: float) -> None:
    """Adds what a variant is beside the floor and, where batches are the same, beside peftkit."""
    if rate := measured.get("gflop_per_cpu_second"):
        floor = rate * 1e9 / flop
        variant["floor_tokens_per_cpu_second"] = floor
        variant["share_of_floor"] = variant["useful_tokens_per_cpu_second"] / floor
    if name in SAME_BATCHES:
        pairs = zip(measured["variants"][OURS]["losses"], variant["losses"], strict=True)
        variant["largest_loss_difference"] = max(abs(a - b) / abs(a) for a, b in pairs)


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = next(line for line in lines if line.startswith("model name"))
    return {"cpu": found.split(":")[1].strip(), "cores": os.cpu_count()}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - WORKLOADS.keys() - VARIANTS.keys():
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return text.split(",")

    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--only", type=names, default=list(WORKLOADS))
    parser.add_argument("--variants", type=names, default=list(VARIANTS))
    parser.add_argument("--data", default="", help="folder with banking77/, wnut17/, xquad/")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ |= ENVIRONMENT  # of the variants too
    main(read_arguments())
