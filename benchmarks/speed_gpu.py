"""How fast peftkit trains on a GPU beside its peers: Llamas with random weights, LoRA, QLoRA.

    python benchmarks/speed_gpu.py [--shapes 1B,8B] [--mixes P,T,V] [--quantization none|nf4]
        [--variants "peftkit,HF default"] [--checkpointing] [--block 10] [--blocks 4]
    python benchmarks/speed_gpu.py --shapes tiny --mixes V --device cpu --block 2 --blocks 1

All variants run on this interpreter, which must have the peers (transformers, peft, TRL, Liger).
They take turns of `--block` steps (speed.py, speed_peer.py), the first of which is not counted; the
8B shape has no room for two at once, and each runs by itself there. Writes speed_gpu.json and its
part of README.md. A variant that ends early, out of memory say, is a row that tells why.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import speed
import torch
from parts import write_part
from speed_workloads import HELD_OUT, HERE, MATMUL, OURS, VARIANTS, Row, Variant, Workload

RESULT = HERE / "speed_gpu.json"
SHAPES = {  # hidden, intermediate, layers, heads, heads of keys, vocabulary, tied
    "tiny": (64, 128, 2, 4, 2, 500, True),
    "1B": (2048, 8192, 16, 32, 8, 128256, True),
    "8B": (4096, 14336, 32, 32, 8, 128256, False),
}
MIXES = {  # tokens of a document (0: log-normal), documents of a batch
    "P": (4096, 2),
    "T": (2048, 2),
    "V": (0, 8),
}
MEDIAN, PERCENTILE_95, LONGEST = 200, 1200, 4096
"""Of the log-normal lengths, in tokens."""
UNLABELLED = 0.6
"""Share of each document of mix V that is asked, and not learned."""
LORA = {"r": 16, "lora_alpha": 32}
PEERS = {
    "HF default": Variant("hf", {}, here=True),
    "HF group_by_length": Variant("hf", {"group_by_length": True}, here=True),
    "HF and Liger": Variant("hf", {"use_liger_kernel": True}, here=True),
    "TRL padding-free": Variant("trl", {"padding_free": True}, here=True),
    "TRL packing": Variant("trl", {"packing": True}, here=True),
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {{ eos_token }} {% endfor %}"


@dataclass(frozen=True)
class Random(Workload):
    """Random words for a Llama with random weights."""

    kind: str = "chat"


def main(arguments: argparse.Namespace) -> None:
    VARIANTS.update(PEERS)
    results = known_results() if arguments.device == "cuda" else []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in arguments.shapes:
            folder = Path(scratch) / shape
            save_model(shape, folder, arguments.device)
            for mix in arguments.mixes:
                row = measured(shape, mix, folder, arguments)
                results = [known for known in results if known["of"] != row["of"]] + [row]
                if arguments.device == "cuda":  # a trial on a CPU measures nothing
                    RESULT.write_text(json.dumps(results, indent=1) + "\n")
                    write_part("speed-gpu", report(results))
                print(part(row), flush=True)


def known_results() -> list[dict[str, Any]]:
    """Those of earlier runs."""
    if not RESULT.exists():
        return []
    try:
        return list(json.loads(RESULT.read_text()))
    except ValueError as error:
        sys.exit(f"{RESULT} is no JSON ({error}); move it away, or take it from git")


def save_model(shape: str, folder: Path, device: str) -> None:
    """A Llama with random weights, and a tokenizer for which each word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    hidden, intermediate, layers, heads, of_keys, vocabulary, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=of_keys, vocab_size=vocabulary,
        tie_word_embeddings=tied, initializer_range=0.02, max_position_embeddings=2 * LONGEST,
        bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words = {"<eos>": 0, "<pad>": 1, **{f"w{n}": n for n in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def documents(mix: str, vocabulary: int, count: int) -> list[Row]:
    """So many documents of random words, asked and answered; each part ends with a mark."""
    rng, words = np.random.default_rng(0), random.Random(0)
    sigma = math.log(PERCENTILE_95 / MEDIAN) / 1.645
    rows = []
    for _ in range(count):
        length = MIXES[mix][0] or min(LONGEST, max(8, int(rng.lognormal(math.log(MEDIAN), sigma))))
        text = [f"w{words.randrange(2, vocabulary)}" for _ in range(length - 2)]
        asked = max(1, int(UNLABELLED * length)) if mix == "V" else 1
        rows.append({"prompt": " ".join(text[:asked]), "completion": " ".join(text[asked:])})
    return rows


def measured(shape: str, mix: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What all variants take for a shape and a mix."""
    turns, block = 1 + arguments.blocks, arguments.block
    batch = MIXES[mix][1]
    count = max(512 if mix == "V" else 0, turns * block * batch) + 2 * HELD_OUT
    vocabulary = SHAPES[shape][5]
    workload = Random(
        f"{shape}, {mix}", str(folder), lambda _: documents(mix, vocabulary, count), batch, 1e-4, ()
    )
    names = [name for name in (OURS, *PEERS) if name in arguments.variants]
    together = [[name] for name in names]
    if shape != "8B":
        peers = [name for name in names if name != OURS]
        together = [[OURS, *peers[at : at + 2]] for at in range(0, max(1, len(peers)), 2)]
    answers: dict[str, list[dict[str, Any]]] = {}
    last: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare_work(workload, Path(scratch), turns, arguments)
        for group in (*together, [MATMUL]):
            took, ended = speed.take_turns(group, workload, turns, Path(scratch))
            last |= ended
            for name, of_turns in took.items():
                answers.setdefault(name, []).extend(of_turns[1:])
    flop = last.pop(MATMUL)["flop"]
    ceiling = float(np.median([flop / turn["wall_seconds"] for turn in answers.pop(MATMUL)]))
    rows = {name: summary(answers[name], end) for name, end in last.items()}
    of_token = speed.flop_per_token(OURS, workload, work)
    for row in rows.values():
        if "note" not in row:
            row["of_ceiling"] = row["useful_tokens_per_second"] * of_token / ceiling
    keys = {"shape": shape, "mix": mix, "quantization": arguments.quantization}
    keys |= {"checkpointing": arguments.checkpointing}
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    return {"of": keys, "device": name, "tflop_per_second": ceiling / 1e12, "variants": rows}


def prepare_work(
    workload: Workload, scratch: Path, turns: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """As speed.py's, without loading the weights of the base."""
    precision: dict[str, Any] = {}
    if arguments.quantization != "none":
        precision = {"quantization": arguments.quantization, "double_quant": True}
    work: dict[str, Any] = {
        "base": workload.base, "kind": "chat", "data": str(scratch), "device": arguments.device,
        "dtype": "bfloat16" if arguments.device == "cuda" else "float32",
        "precision": precision, "lora": LORA, "max_length": LONGEST + 8, "matmul_tokens": 8192,
        "training": {"gradient_checkpointing": arguments.checkpointing},
        "batch_size": workload.batch_size, "learning_rate": workload.learning_rate,
        "target_modules": workload.target_modules, "turns": turns, "warmup": 1, "norms": True,
        "steps_per_turn": arguments.block, "steps": turns * arguments.block,
        "num_rows": speed.write_rows(workload, scratch, scratch),
        "start": str(scratch / "start.safetensors"),
    }  # fmt: skip
    return speed.complete(work, scratch, without_weights)


def without_weights(prepared: Any) -> Any:
    from peftkit.bases.loading import empty_model

    torch.manual_seed(0)
    return empty_model(prepared.base, prepared.encoded.head)


def summary(turns: list[dict[str, Any]], end: dict[str, Any]) -> dict[str, Any]:
    """A row: rates, memory, and whether anything was learned."""
    if "note" in end:
        return {"note": end["note"]}
    seconds = [turn["wall_seconds"] for turn in turns]
    useful = [turn["useful_tokens"] for turn in turns]
    rates = [tokens / took for tokens, took in zip(useful, seconds, strict=True)]
    processed = sum(turn["padded_tokens"] for turn in turns)
    if not processed:  # peftkit tells it at its end
        processed = sum(useful) / (1 - end["padding"])
    losses = end["losses"]
    row = {
        "useful_tokens_per_second": sum(useful) / sum(seconds),
        "p10_p90": np.percentile(rates, (10, 90)).tolist(),
        "processed_tokens_per_second": processed / sum(seconds),
        "allocated_gib": end.get("allocated_gib"),
        "reserved_gib": end.get("reserved_gib"),
        "losses": [losses[0], losses[min(9, len(losses) - 1)], losses[-1]],
        "gradient_norms": [end["gradient_norms"][0], end["gradient_norms"][-1]],
    }
    if min(row["gradient_norms"]) == 0:
        return {"note": f"void: a gradient norm of zero; losses {row['losses']}"}
    return row


def report(results: list[dict[str, Any]]) -> str:
    return "## Speed on a GPU, beside peers\n" + "\n".join(part(result) for result in results)


def part(result: dict[str, Any]) -> str:
    """A table of one shape and mix."""
    of, ours = result["of"], result["variants"].get(OURS, {}).get("useful_tokens_per_second")
    lines = [
        f"### {of['shape']}, mix {of['mix']}, quantization {of['quantization']}, activation "
        f"checkpointing {'on' if of['checkpointing'] else 'off'}",
        f"{result['device']}; matrix products at {result['tflop_per_second']:.3g} TFLOP/s.\n",
        "| | useful tokens/s (p10-p90) | processed | of peftkit's | of the ceiling | allocated, "
        "reserved GiB | loss at steps 1, 10, last | gradient norm, first and last |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["variants"].items():
        if "note" in row:
            lines.append(f"| {name} | {row['note']} | | | | | | |")
            continue
        low, high = row["p10_p90"]
        share = f"{row['useful_tokens_per_second'] / ours:.2f}" if ours else ""
        memory = [row["allocated_gib"], row["reserved_gib"]]
        lines.append(
            f"| {name} | {row['useful_tokens_per_second']:,.0f} ({low:,.0f}-{high:,.0f}) | "
            f"{row['processed_tokens_per_second']:,.0f} | {share} | {row['of_ceiling']:.0%} | "
            f"{', '.join('-' if gib is None else f'{gib:.1f}' for gib in memory)} | "
            f"{', '.join(f'{loss:.4f}' for loss in row['losses'])} | "
            f"{', '.join(f'{norm:.2g}' for norm in row['gradient_norms'])} |"
        )
    return "\n".join(lines) + "\n"


def read_arguments() -> argparse.Namespace:
    def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
        def names(text: str) -> list[str]:
            if unknown := [name for name in text.split(",") if name not in known]:
                told = f"{', '.join(unknown)}: not one of {', '.join(known)}"
                raise argparse.ArgumentTypeError(told)
            return text.split(",")

        return names

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", type=some_of(SHAPES), default=["1B"])
    parser.add_argument("--mixes", type=some_of(MIXES), default=list(MIXES))
    parser.add_argument("--variants", type=some_of((OURS, *PEERS)), default=[OURS, *PEERS])
    parser.add_argument("--quantization", choices=("none", "nf4"), default="none")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--block", type=int, default=10, help="steps of a turn")
    parser.add_argument("--blocks", type=int, default=4, help="timed turns of each variant")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; `--device cpu` tries the script")
    if arguments.device == "cpu" and arguments.quantization != "none":
        parser.error("the peers' nf4 is measured on a GPU only; leave out `--quantization`")
    return arguments


if __name__ == "__main__":
    main(read_arguments())
