"""Results on public data sets, beside plain HF Trainer + PEFT: tables for docs/results.md.

    python benchmarks/real_sets.py TABLE --data FOLDER [--jobs 2] [--report]

TABLE is wnut17, semeval, ranking, questions, unanswerable or chinese. It appends a line a run to
benchmarks/real_sets.jsonl, skips runs that are there, and so continues where it stopped. FOLDER
holds wnut17/, semeval2010_task8/, xquad/ and banking77/.
Every run is a process of its own with one CPU thread; `--jobs` run beside each other.
`unanswerable` asks every second question of XQuAD about another paragraph of its article, without
the answer; it also writes the curve of F1 by threshold, as half_answerable_LANGUAGE.svg.
`chinese` needs no FOLDER: it runs recipes/intents_zh.py and entities_zh.py at two learning rates,
among which the validation score is to choose.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from runpy import run_path
from statistics import mean
from typing import Any

from peftkit import (
    Base,
    FullFineTuning,
    LoRA,
    MarkedTexts,
    Method,
    QuestionAnswering,
    Questions,
    Recipe,
    RelationExtraction,
    ScoredPairs,
    TaggedWords,
    Task,
    TextPairScoring,
    TokenClassification,
    Training,
)

HERE = Path(__file__).parent
RESULTS = HERE / "real_sets.jsonl"
WORK = Path("runs/real_sets")
MINILM, E5 = "packaged:minilm-l6", "packaged:multilingual-e5-small"
LORA = LoRA(r=8, lora_alpha=16, target_modules="all-linear")
SEEDS = (0, 1, 2)
CHINESE = ("intents_zh", "entities_zh")
CHINESE_RATES = (1e-3, 3e-3)
QUESTIONS = {"questions-en": "squad", "questions-zh": "cmrc2018"}
"""Questions of XQuAD -> how their answers are compared."""
HALF = {"half-en": "questions-en", "half-zh": "questions-zh"}
"""Half-answerable questions -> the questions that they are made of."""
RANKED = ("xquad-en", "xquad-zh", "banking77")
CANDIDATES = 20
"""Texts among which one is right."""
TRAINED = 5
"""Candidates of a query in training, which takes a quarter of the time of all 20."""

Job = tuple[str, str, int, list[str]]
"""Name of the row, method, seed, command."""


# Recipes, by name


def recipe(name: str, method: str, seed: int) -> Recipe:
    """Returns the recipe of a run; ranking data must have been written."""
    if name in CHINESE:
        recipe = run_path(str(HERE.parent / "recipes" / f"{name}.py"))["recipe"]()
        training = recipe.training.with_(threads=1, learning_rate=float(method.split()[1]))
        return recipe.with_(training=training, seed=seed)
    methods: dict[str, tuple[Method, float]] = {
        "lora": (LORA, 1e-3), "full": (FullFineTuning(), 2e-4),
    }  # fmt: skip
    chosen, rate = methods[method]
    training = Training(learning_rate=rate, threads=1, early_stopping_patience=0)
    if name == "wnut17":
        base = MINILM
        task: Task = TokenClassification(data=TaggedWords(path=str(WORK / "wnut17")))
        training = training.with_(num_epochs=4, batch_size=16)
    elif name == "semeval":
        base, task = MINILM, RelationExtraction(data=MarkedTexts(path=str(WORK / "semeval")))
        rate = {"lora": 1e-3, "full": 1e-4}[method]
        training = training.with_(num_epochs=5, batch_size=16, learning_rate=rate)
    elif name in QUESTIONS or name in HALF:
        base, task = E5, question_task(name)
        training = training.with_(num_epochs=4, batch_size=16, micro_batch_tokens=4096)
    else:
        base = MINILM if name == "banking77" else E5
        task = ranking_task(name, base)
        epochs = 2 if name == "banking77" else 1
        training = training.with_(num_epochs=epochs, batch_size=8, micro_batch_tokens=4096)
    return Recipe(
        base=Base(name_or_path=base), task=task, method=chosen, training=training, seed=seed,
        name=f"{name}_{method}_{seed}",
    )  # fmt: skip


def ranking_task(name: str, base: str) -> Task:
    """Returns the task of ranking the candidates of a query."""
    data = ScoredPairs(path=str(WORK / name), query="query")
    prefix = "query: " if base == E5 else ""
    return TextPairScoring(
        data=data, objective="listwise", pooling="mean", max_length=160, prefix=prefix
    )


def question_task(name: str) -> Task:
    """Returns the task of finding answers; it chooses a threshold if some questions have none."""
    data = Questions(path=str(WORK / name), group="title")
    normalization = QUESTIONS[HALF.get(name, name)]
    return QuestionAnswering(data=data, normalization=normalization, prefix="query: ")


# Data


def write_wnut17(folder: Path) -> None:
    """Copies the CoNLL files to a folder that a recipe can name."""
    target = WORK / "wnut17"
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        text = (folder / "wnut17" / f"{split}.conll").read_text(encoding="utf-8")
        (target / f"{split}.conll").write_text(text, encoding="utf-8")


def write_semeval(folder: Path) -> None:
    """Copies the files of SemEval-2010 task 8 to a folder that a recipe can name."""
    target = WORK / "semeval"
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        text = (folder / "semeval2010_task8" / f"{split}.txt").read_text(encoding="utf-8")
        (target / f"{split}.txt").write_text(text, encoding="utf-8")


def xquad_pairs(folder: Path, language: str) -> dict[str, list[tuple[str, str, list[str]]]]:
    """Split -> (question, its paragraph, other paragraphs). Articles are divided 30, 6 and 12; of
    the 6 and the 12 every second question is taken.
    """
    articles = json.loads((folder / "xquad" / f"xquad.{language}.json").read_text())["data"]
    order = random.Random(0).sample(range(len(articles)), len(articles))
    bounds = {"train": order[:30], "validation": order[30:36], "test": order[36:]}
    found = {}
    for split, chosen in bounds.items():
        paragraphs = [p for place in chosen for p in articles[place]["paragraphs"]]
        contexts = [p["context"].strip("\ufeff") for p in paragraphs]
        found[split] = [
            (question["question"].strip("\ufeff"), context, [c for c in contexts if c != context])
            for context, paragraph in zip(contexts, paragraphs, strict=True)
            for question in paragraph["qas"][:: 1 if split == "train" else 2]
        ]
    return found


def write_questions(name: str, folder: Path) -> None:
    """Divides XQuAD by article: half of them for training, a tenth of which validates, half to
    test. Byte order marks are removed, and starts move with them.
    """
    language = name.split("-")[1]
    articles = json.loads((folder / "xquad" / f"xquad.{language}.json").read_text())["data"]
    for paragraph in (p for article in articles for p in article["paragraphs"]):
        marks = len(paragraph["context"]) - len(paragraph["context"].lstrip("\ufeff"))
        paragraph["context"] = paragraph["context"][marks:]
        for answer in (answer for qa in paragraph["qas"] for answer in qa["answers"]):
            answer["answer_start"] -= marks
    order = random.Random(0).sample(range(len(articles)), len(articles))
    half = len(articles) // 2
    bounds = {"validation": order[: half // 10], "train": order[half // 10 : half],
              "test": order[half:]}  # fmt: skip
    (WORK / name).mkdir(parents=True, exist_ok=True)
    for split, chosen in bounds.items():
        value = {"version": "1.1", "data": [articles[place] for place in sorted(chosen)]}
        text = json.dumps(value, ensure_ascii=False)
        (WORK / name / f"{split}.json").write_text(text, encoding="utf-8")


def write_half_answerable(name: str) -> None:
    """Writes the questions of XQuAD so that about half have no answer in their context."""
    rng = random.Random(0)
    (WORK / name).mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        value = json.loads((WORK / HALF[name] / f"{split}.json").read_text(encoding="utf-8"))
        for article in value["data"]:
            ask_elsewhere(article["paragraphs"], rng)
        text = json.dumps({**value, "version": "2.0"}, ensure_ascii=False)
        (WORK / name / f"{split}.json").write_text(text, encoding="utf-8")


def ask_elsewhere(paragraphs: list[dict[str, Any]], rng: random.Random) -> None:
    """Moves every second question to another paragraph in which none of its answers stands, if
    there is one.
    """
    kept: list[list[Any]] = [[] for _ in paragraphs]
    moved: list[list[Any]] = [[] for _ in paragraphs]
    for place, paragraph in enumerate(paragraphs):
        for number, qa in enumerate(paragraph["qas"]):
            texts = [answer["text"].lower() for answer in qa["answers"]]
            others = [
                n for n, other in enumerate(paragraphs)
                if n != place and not any(text in other["context"].lower() for text in texts)
            ]  # fmt: skip
            if number % 2 and others:
                moved[rng.choice(others)].append({**qa, "answers": [], "is_impossible": True})
            else:
                kept[place].append(qa)
    for paragraph, own, foreign in zip(paragraphs, kept, moved, strict=True):
        paragraph["qas"] = own + foreign


def banking_pairs(folder: Path) -> dict[str, list[tuple[str, str, list[str]]]]:
    """Split -> (question, one of the same intent, questions of other intents)."""
    rng, found = random.Random(0), {}
    with (folder / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        train = rng.sample(list(csv.DictReader(file)), 3000)
    with (folder / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        test = list(csv.DictReader(file))
    parts = {"train": train[:2600], "validation": train[2600:], "test": test}
    for split, rows in parts.items():
        by_intent = defaultdict(list)
        for row in rows:
            by_intent[row["category"]].append(row["text"])
        queries = rng.sample(rows, min(len(rows), {"train": 1000}.get(split, 300)))
        found[split] = []
        for row in queries:
            same = [text for text in by_intent[row["category"]] if text != row["text"]]
            others = [r["text"] for r in rows if r["category"] != row["category"]]
            if same:
                found[split].append((row["text"], rng.choice(same), others))
    return found


def write_ranking(name: str, folder: Path) -> None:
    """Writes a ranking set as JSON lines: `text`, `text_pair`, `score`, `query`."""
    target = WORK / name
    target.mkdir(parents=True, exist_ok=True)
    if (target / "test.jsonl").is_file():
        return
    pairs = (
        banking_pairs(folder) if name == "banking77" else xquad_pairs(folder, name.split("-")[1])
    )
    for split, queries in pairs.items():
        rng, lines = random.Random(split), []
        count = TRAINED if split == "train" else CANDIDATES
        for number, (query, right, others) in enumerate(queries):
            wrong = rng.sample(sorted(set(others) - {right}), count - 1)
            for text, score in [(right, 1), *((text, 0) for text in wrong)]:
                row = {
                    "text": query,
                    "text_pair": text,
                    "score": score,
                    "query": f"{split}{number}",
                }
                lines.append(json.dumps(row, ensure_ascii=False))
        (target / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# Runs


def jobs(table: str, folder: Path) -> Iterator[Job]:
    """Yields the runs of a table, the first seed of all rows first."""
    ours = [sys.executable, __file__, "--run"]
    if table in ("wnut17", "semeval"):
        for seed in SEEDS:
            for method in ("lora", "full"):
                yield table, method, seed, [*ours, table, method, str(seed)]
            if seed == 0:
                for method in ("lora", "full"):
                    peer = [sys.executable, str(HERE / "hf_tasks.py"), table, method]
                    options = ["--data", str(folder), "--threads", "1"]
                    yield table, f"hf {method}", 0, [*peer, *options]
    if table == "questions":
        for name in QUESTIONS:
            peer = [sys.executable, str(HERE / "hf_tasks.py"), "xquad", "lora"]
            options = ["--data", str(WORK), "--threads", "1", "--language", name.split("-")[1]]
            yield name, "lora", 0, [*ours, name, "lora", "0"]
            yield name, "hf lora", 0, [*peer, *options]
    without_peer = {
        "ranking": [(name, method) for name in RANKED for method in ("cosine", "lora")],
        "unanswerable": [(name, "lora") for name in HALF],
        "chinese": [(name, f"lora {rate:g}") for name in CHINESE for rate in CHINESE_RATES],
    }
    for name, method in without_peer.get(table, ()):
        yield name, method, 0, [*ours, name, method, "0"]


def run_one(name: str, method: str, seed: int) -> None:
    """Makes one run, and prints its scores as a line of JSON."""
    if method == "cosine":
        print(json.dumps(cosine(name)))
        return
    from peftkit.reports.charts import picture
    from peftkit.run import run

    folder = WORK / "runs" / f"{name}_{method}_{seed}_{int(time.time())}"
    record = run(recipe(name, method, seed), str(folder), frozen_probe=name == "intents_zh").record
    assert record is not None
    test = record.test
    if name in HALF:
        curve = next(chart for chart in test.charts if chart.title == "F1 by threshold")
        target = HERE / f"half_answerable_{name.split('-')[1]}.svg"
        target.write_text(picture(curve), encoding="utf-8")
    print(json.dumps({
        "test": test.after, "before": test.before, "baselines": test.baseline,
        "intervals": test.intervals, "validation": record.training.best_value,
        "best_step": record.training.best_step,
        "seconds": sum(record.seconds.values()),
        "rows": {split: count.rows for split, count in record.ledger.splits.items()},
    }))  # fmt: skip


def cosine(name: str) -> dict[str, Any]:
    """Ranks the test candidates by the cosine of mean-pooled states of the frozen base."""
    import numpy as np
    import torch
    from torch.nn import functional as F
    from transformers import AutoModel

    from peftkit.bases.opening import open_base
    from peftkit.metrics.ranking import ndcg, reciprocal_rank

    task = recipe(name, "lora", 0).task
    base = open_base(recipe(name, "lora", 0).base)
    model = AutoModel.from_pretrained(base.folder).eval()
    rows = [json.loads(line) for line in (WORK / name / "test.jsonl").read_text().splitlines()]
    texts = sorted({row[key] for row in rows for key in ("text", "text_pair")})
    vectors = {}
    with torch.inference_mode():
        for start in range(0, len(texts), 16):
            some = texts[start : start + 16]
            read = base.tokenizer(
                [task.prefix + text for text in some], return_tensors="pt", padding=True,
                truncation=True, max_length=512,
            )  # fmt: skip
            states = model(**read).last_hidden_state
            mask = read["attention_mask"][..., None]
            pooled = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            vectors.update(zip(some, pooled.numpy(), strict=True))
    groups = defaultdict(list)
    for row in rows:
        cosine = float(vectors[row["text"]] @ vectors[row["text_pair"]])
        groups[row["query"]].append((cosine, row["score"]))
    tables = [np.array(group).T for group in groups.values()]
    return {
        "test": {
            "ndcg@10": mean(ndcg(predicted, right, 10) for predicted, right in tables),
            "mrr": mean(reciprocal_rank(predicted, right) for predicted, right in tables),
        },
        "rows": {"test": len(rows)},
    }


def main(arguments: argparse.Namespace) -> None:
    if arguments.run:
        name, method, seed = arguments.run
        run_one(name, method, int(seed))
        return
    if arguments.table == "wnut17":
        write_wnut17(arguments.data)
    elif arguments.table == "semeval":
        write_semeval(arguments.data)
    elif arguments.table in ("questions", "unanswerable"):
        for name in QUESTIONS:
            write_questions(name, arguments.data)
        for name in HALF:
            write_half_answerable(name)
    elif arguments.table == "ranking":
        for name in RANKED:
            write_ranking(name, arguments.data)
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    done = {(r["name"], r["method"], r["seed"]) for r in map(json.loads, lines)}
    due = [] if arguments.report else list(jobs(arguments.table, arguments.data))
    failed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = [pool.submit(row_of, arguments.table, job) for job in due if job[:3] not in done]
        for finished in as_completed(rows):
            if error := finished.exception():  # the other rows are written all the same
                failed += 1
                print(error, file=sys.stderr, flush=True)
                continue
            line = json.dumps(finished.result())
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line[:200], flush=True)
    report(arguments.table)
    sys.exit(f"{failed} runs failed; the same command tries them again" if failed else 0)


def row_of(table: str, job: Job) -> dict[str, Any]:
    """Runs a job in a process of its own; returns its row."""
    name, method, seed, command = job
    row = {"table": table, "name": name, "method": method, "seed": seed, "commit": commit()}
    started = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = round(time.perf_counter() - started)
    return {**json.loads(output.splitlines()[-1]), **row, "wall_seconds": seconds}


def commit() -> str:
    """Returns the short name of the commit."""
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def report(table: str) -> None:
    """Prints a table of all rows, one line for each method."""
    found = defaultdict(list)
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["table"] == table:
            found[row["name"], row["method"]].append(row)
    print("| set | method | score | each seed | seconds | commit |\n|---|---|---|---|---:|---|")
    for (name, method), rows in found.items():
        scores = [main_score(row) for row in rows]
        each = ", ".join(f"{score:.3f}" for score in scores)
        seconds = round(mean(row["wall_seconds"] for row in rows))
        commits = ", ".join(sorted({row["commit"] for row in rows}))
        print(f"| {name} | {method} | {mean(scores):.3f} | {each} | {seconds} | {commits} |")


def main_score(row: dict[str, Any]) -> float:
    """Returns the test score by which a row is compared."""
    test = row["test"]
    if isinstance(test, float):
        return test
    names = ("official_f1", "strict_f1", "ndcg@10", "f1", "accuracy")
    return float(next(test[name] for name in names if name in test))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "table",
        nargs="?",
        choices=("wnut17", "semeval", "ranking", "questions", "unanswerable", "chinese"),
        default="wnut17",
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "METHOD", "SEED"))
    main(parser.parse_args())
