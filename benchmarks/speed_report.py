"""Writes what benchmarks/speed.py measured: its part of README.md beside it, and its picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from parts import write_part
from speed_workloads import OURS, VARIANTS, WORKLOADS

PLOT = "speed.png"
BLUE, LIGHT_BLUE, GRAY, DARK = "#2a6fbb", "#9cc3e6", "#b9b9b9", "#333333"
TEXT = """\
## Speed, beside peers
On {cores} cores of {cpu}; {versions}.

What is counted is tokens without padding per CPU-second (of all threads, user and system): it is
noisy on a shared machine, but less so than the clock. All variants read the same token ids and
labels, load the same folder, adapt the same layers and begin at the same tensors, in float32 with
AdamW, a linear schedule without warm-up, clipping at 1 and no dropout. Each is a process of its
own, and they take turns, one optimizer step each, so that what else the machine does hits all of
them; the first steps are not counted. Threads sleep where they wait (`OMP_WAIT_POLICY=passive`):
where something else has their core, their spinning would be counted too.

![Tokens per CPU-second of peftkit and its peers]({plot})

The floor is the time of the matrix products that cannot be left out, at the rate at which this
processor multiplied matrices of the model's own shapes in the same run: for each token without
padding 4 floating-point operations per frozen weight of the linear layers that it passes (forward,
and the gradient of the input), 6 where weights are trained, and of a language model's output layer
only for tokens with a label. The picture has the floor of peftkit's own bar. Memory is the
process's peak while it trains, loading left out; where it was measured too, how much of that is
above what the process held when training began.

{parts}
### What the variants are
- **HF default**: HF Trainer and PEFT, a batch padded to its longest row, in peftkit's order.
- **HF group_by_length**: the same, in batches of similar lengths as HF's sampler makes them; of its
  batches an even sample, since the longest come first.
- **TRL**: SFTTrainer on tokens, without its gradient checkpointing; padded and padding-free in
  peftkit's order, packing into rows as long as a batch is on average. Its own output layer leaves
  out positions without labels on GPUs only.
- **shared** are tokens with which all examples of a packed row begin, here the system prompt:
  peftkit computes them once for the row. They count as tokens of each example, in the floor too.
- **of peftkit's** is of the steps with which a variant took turns: peftkit runs beside two others
  at a time, and its own line is of all its steps. Where peers were
  measured in several runs (`--variants`), that line is of one of them: compare by this column.
- **largest difference of the loss** is that of any step from peftkit's, relative, where the batches
  are the same.

`make speed DATA=FOLDER` measures all of it again.
"""
HEADER = (
    "| | tokens per CPU-s | of peftkit's | of the floor | CPU-s per step (p10-p90) | s per step "
    "| padding | peak memory | largest difference of the loss |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def write(results: dict[str, Any], folder: Path) -> None:
    workloads = {
        name: results["workloads"][name] for name in WORKLOADS if name in results["workloads"]
    }
    parts = [part(name, workload) for name, workload in workloads.items()]
    if ratios := full_ratios(workloads):
        parts.append("### A step of LoRA beside one of full fine-tuning\n" + ratios)
    text = TEXT.format(
        **results["machine"], versions=versions(workloads), plot=PLOT, parts="\n".join(parts)
    )
    write_part("speed", text, folder / "README.md")
    draw(workloads, folder / PLOT)


def versions(workloads: dict[str, Any]) -> str:
    """Of all packages, each version once: `torch 2.13.0, transformers 5.23.0, ...`."""
    found = {
        f"{package} {number}": None
        for workload in workloads.values()
        for _, variant in ordered(workload)
        for package, number in variant.get("versions", {}).items()
    }
    return ", ".join(found)


def ordered(workload: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The variants of a workload, peftkit first."""
    return [(n, workload["variants"][n]) for n in VARIANTS if n in workload["variants"]]


def part(name: str, workload: dict[str, Any]) -> str:
    """A heading and the table of a workload."""
    lines = [f"### {name}: {workload['title']}"]
    measured = [(n, variant) for n, variant in ordered(workload) if "note" not in variant]
    if workload["epochs"]:
        epochs = [f"epoch {number + 1}" for number in range(workload["epochs"])]
        columns = ["CPU-s of " + epochs[0], *epochs[1:], "all", "seconds", "speed of peftkit's"]
        lines.append("| | " + " | ".join([*columns, "peak memory"]) + " |")
        lines.append("| --- |" + " ---: |" * (len(columns) + 1))
        lines += [epochs_line(n, variant) for n, variant in measured]
    else:
        rate, turns = workload["gflop_per_cpu_second"], workload["variants"][OURS]["turns"]
        lines += [HEADER, *(steps_line(n, variant) for n, variant in measured)]
        lines.append(f"\nThe processor's rate is {rate:.0f} GFLOP per CPU-second; peftkit took")
        lines[-1] += f" {turns} steps."
    for n, variant in ordered(workload):
        if "note" in variant:
            lines.append(f"\n{n} did not run: {variant['note']}")
    return "\n".join(lines) + "\n"


def steps_line(name: str, variant: dict[str, Any]) -> str:
    cpu, wall = variant["cpu_seconds"], variant["wall_seconds"]
    difference = variant.get("largest_loss_difference")
    cells = [
        name,
        f"{variant['useful_tokens_per_cpu_second']:.0f}",
        f"{variant['of_peftkit']:.2f}",
        f"{variant['share_of_floor']:.0%}",
        f"{cpu['median']:.2f} ({cpu['p10']:.2f}-{cpu['p90']:.2f})",
        f"{wall['median']:.2f}",
        padding(variant["padding"]),
        memory(variant),
        "" if difference is None else f"{difference:.0e}" if difference else "0",
    ]
    return "| " + " | ".join(cells) + " |"


def memory(variant: dict[str, Any]) -> str:
    """Peak while training, and how much of it came after loading, where that was measured."""
    peak = f"{variant['peak_memory_mb'] / 1000:.1f} GB"
    if loaded := variant.get("loaded_mb"):
        peak += f" ({variant['peak_memory_mb'] - loaded:.0f} MB above the loaded model)"
    return peak


def padding(of_given: float) -> str:
    """Of what the model was given; negative where it was given less than the examples hold."""
    return f"{of_given:.0%}" if of_given >= 0 else f"0%, {1 - 1 / (1 - of_given):.0%} shared"


def epochs_line(name: str, variant: dict[str, Any]) -> str:
    cpu, wall = variant["cpu_seconds"]["all"], variant["wall_seconds"]["all"]
    cells = [
        name,
        *(f"{seconds:.1f}" for seconds in cpu),
        f"{sum(cpu):.1f}",
        f"{sum(wall):.1f}",
        f"{variant['of_peftkit']:.2f}",
        f"{variant['peak_memory_mb'] / 1000:.1f} GB",
    ]
    return "| " + " | ".join(cells) + " |"


def full_ratios(workloads: dict[str, Any]) -> str:
    """What a step of LoRA costs of one of full fine-tuning, where both took turns."""
    lines = []
    for name, workload in workloads.items():
        if lora := workload["variants"].get("peftkit LoRA"):
            cpu = (
                lora["cpu_seconds"]["median"] / workload["variants"][OURS]["cpu_seconds"]["median"]
            )
            model, total = workload["title"].split(",")[0], 1 / lora["of_peftkit"]
            lines.append(
                f"- {name} ({model}): {total:.2f} of its CPU time in all, {cpu:.2f} at the median."
            )
    return "\n".join(lines) + "\n" * bool(lines)


def draw(workloads: dict[str, Any], target: Path) -> None:
    """One panel for each workload: bars of tokens per CPU-second, or lines over epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(workloads))
    rows = math.ceil(len(workloads) / columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(6.2 * columns, 2.7 * rows))
    panels = list(grid.flat) if len(workloads) > 1 else [grid]
    for panel, (name, workload) in zip(panels, workloads.items(), strict=False):
        (draw_epochs if workload["epochs"] else draw_bars)(panel, workload)
        title = f"{name}: {workload['title'].split(' (')[0]}"
        panel.set_title(title, loc="left", fontsize=10, color=DARK)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9, colors=DARK)
    for panel in panels[len(workloads) :]:
        panel.axis("off")
    figure.tight_layout(h_pad=1.5, w_pad=2)
    figure.savefig(target, dpi=130, facecolor="white")
    pyplot.close(figure)


def color(name: str) -> str:
    return BLUE if name == OURS else LIGHT_BLUE if name.startswith(OURS) else GRAY


def draw_bars(panel: Any, workload: dict[str, Any]) -> None:
    shown = [(name, v) for name, v in ordered(workload)[::-1] if "note" not in v]
    rates = [v["useful_tokens_per_cpu_second"] for _, v in shown]
    names = [name for name, _ in shown]
    bars = panel.barh(names, rates, color=[color(name) for name in names], height=0.65)
    floor = workload["variants"][OURS]["floor_tokens_per_cpu_second"]
    panel.axvline(floor, color=DARK, linestyle="--", linewidth=1)
    panel.annotate(
        "floor", (floor, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
        textcoords="offset points", va="top", fontsize=8, color=DARK,
    )  # fmt: skip
    labels = panel.bar_label(bars, [f"{r:.0f}" for r in rates], padding=3, fontsize=9, color=DARK)
    for label in labels:  # legible where the floor passes through
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    panel.set_xlim(0, 1.15 * max(floor, *rates))
    panel.set_xlabel("tokens per CPU-second", fontsize=9, color=DARK)
    panel.tick_params(axis="y", length=0)


def draw_epochs(panel: Any, workload: dict[str, Any]) -> None:
    epochs = range(1, workload["epochs"] + 1)
    for name, variant in ordered(workload):
        if "note" not in variant:
            seconds = variant["cpu_seconds"]["all"]
            panel.plot(epochs, seconds, marker="o", markersize=4, color=color(name), label=name)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_xticks(epochs)
    panel.set_xlabel("epoch", fontsize=9, color=DARK)
    panel.set_ylabel("CPU-seconds", fontsize=9, color=DARK)
    panel.legend(fontsize=8, frameon=False)
