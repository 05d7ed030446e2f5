"""Read this file first: it is the straight line from a recipe to a checked adapter.

    recipe -> splits -> opened base -> encoded examples -> weights -> score before -> inject
           -> train -> score after -> adapter -> receipt

Nothing flows back. `prepare` does everything that needs no weights, and finds everything that
can be wrong without them; `peftkit check` stops there. `run` does the rest.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from peftkit.adapters.card import write_card
from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.probes import take_probes, tolerance
from peftkit.adapters.record import (
    Record,
    chat_template_sha256,
    config_digests,
    peft_config,
    published_recipe,
    tensor_digests,
    tokenizer_sha256,
    versions,
)
from peftkit.adapters.saving import adapter_bytes, check_saved, write_weights
from peftkit.adapters.serving import commands
from peftkit.adapters.starting import Start, check_start, find_start, restore_start
from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.fingerprint import fingerprint
from peftkit.bases.footprint import footprint
from peftkit.bases.loading import load_weights, unquantized_modules
from peftkit.bases.opening import OpenedBase, open_base
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.ledger import Ledger
from peftkit.data.splits import load_splits
from peftkit.errors import MethodError, first_line
from peftkit.evaluation.generating import answer_prompts
from peftkit.evaluation.receipt import write_receipt
from peftkit.evaluation.report import print_ledger, print_scores
from peftkit.evaluation.scoring import evaluate
from peftkit.methods.method import Layout, trainable_parameters
from peftkit.outcome import Clock, Outcome, Sample
from peftkit.output import check_output, output_folder, write_json
from peftkit.planning import Plan, make_plan
from peftkit.recipe import Recipe
from peftkit.rehearsal import count, rehearse
from peftkit.tasks.task import Piece, Score
from peftkit.training.batching import number_of_steps
from peftkit.training.devices import (
    device_name,
    give_back_memory,
    open_accelerator,
    peak_memory_mb,
    weights_dtype,
)
from peftkit.training.loop import train
from peftkit.training.reading import Reader
from peftkit.training.self_check import choose_reader


@dataclass(frozen=True)
class Prepared:
    """A recipe whose data and base were found to be good, before any weight is loaded."""

    recipe: Recipe
    """With the quantization that the base's files have, where they have one."""
    ledger: Ledger
    base: OpenedBase
    encoded: Encoded
    start: Start | None
    """The adapter that training goes on from."""
    trainable_parameters: int
    total_parameters: int

    def example(self) -> tuple[Piece, ...]:
        """The first training example as the model reads it, and what of it is supervised."""
        task, encoded = self.recipe.task, self.encoded
        return task.show(0, encoded.train, encoded.head, self.base.tokenizer)


@dataclass(frozen=True)
class Run:
    """What a run leaves behind."""

    folder: Path
    record: dict[str, Any]
    """The content of run.json."""


def prepare(recipe: Recipe) -> Prepared:
    """Everything that needs no weights: rows, splits, tokens, and a rehearsal of the injection.

    Raises:
        PeftkitError: whatever is wrong with recipe, data or base, with what to do about it.
    """
    start = find_start(recipe)
    splits, ledger = load_splits(recipe.task, recipe.split_seed)
    base = open_base(recipe.base, recipe.method.position_offset)
    if reason := recipe.method.supports(recipe.task, base.spec):  # it may be quantized already
        raise MethodError(reason)
    recipe = recipe.with_(base=base.spec)
    encoded = recipe.task.encode(splits, base.tokenizer)
    if start:
        check_start(start, base, encoded.head)
    if reason := recipe.method.supports_steps(number_of_steps(recipe.training, len(encoded.train))):
        raise MethodError(reason)
    folder = start.folder if start else None
    trainable, total = rehearse(base, encoded, recipe.method, recipe.training, folder)
    ledger = ledger.with_encoded(encoded)
    if start and (note := start.note(base)):
        ledger = replace(ledger, notes=(*ledger.notes, note))
    return Prepared(recipe, ledger, base, encoded, start, trainable, total)


def plan(prepared: Prepared, accelerator: Accelerator, *, timed: bool) -> Plan:
    """What the run will take; see `make_plan`."""
    return make_plan(
        prepared.recipe,
        prepared.base,
        prepared.encoded,
        (prepared.trainable_parameters, prepared.total_parameters),
        accelerator,
        timed=timed,
    )


def plan_if_possible(
    prepared: Prepared, accelerator: Accelerator, console: Console
) -> dict[str, Any]:
    """The plan of a run, which goes on without one where none can be made."""
    if not accelerator.is_main_process:
        return {}
    try:
        planned = plan(prepared, accelerator, timed=False)
    except Exception as error:  # small copies of an architecture may be what nobody has built
        reason = f"{type(error).__name__}: {first_line(error)}"
        console.print(f"  [yellow]note:[/] memory cannot be planned: {reason}", highlight=False)
        return {"failed": reason}
    for note in planned.notes:
        console.print(f"  [yellow]note:[/] {note}", highlight=False)
    return planned.to_json()


def run(recipe: Recipe, output_dir: str = "", console: Console | None = None) -> Run:
    """Trains a recipe and leaves a checked adapter, its record and its receipt in a new folder.

    Args:
        output_dir: a folder that does not exist yet, or is empty; `runs/<name>` if not given.
        console: where progress is printed; nowhere if not given.

    Raises:
        PeftkitError: see its subclasses. No folder is left behind unless an adapter was saved.
    """
    console = console or Console(quiet=True)
    clock = Clock()
    with clock.stage("prepare"):
        check_output(output_dir)
        prepared = prepare(recipe)
        recipe = prepared.recipe
        accelerator = open_accelerator(recipe.base, recipe.training.report_to)
        if not accelerator.is_main_process:
            console = Console(quiet=True)
        print_ledger(console, prepared.ledger)
    with clock.stage("plan"):
        planned = plan_if_possible(prepared, accelerator, console)
    with output_folder(recipe, output_dir, accelerator) as folder:
        model, outcome = train_and_score(prepared, accelerator, clock, console)
        if not accelerator.is_main_process:
            return Run(folder, {})
        with clock.stage("save"):
            unchecked, adapter = save_adapter(model, outcome, prepared, folder, accelerator)
        accelerator.free_memory()  # the check loads the base a second time
        del model
        gc.collect()
        with clock.stage("check"):
            saved, difference = check_saved(unchecked, recipe, prepared.base, adapter, accelerator)
        record = run_record(
            prepared, planned, outcome, adapter, saved, difference, clock, accelerator
        )
        write_json(folder / "run.json", record)
        write_receipt(folder / "receipt.html", record)
    print_scores(console, record)
    return Run(folder, record)


def train_and_score(
    prepared: Prepared, accelerator: Accelerator, clock: Clock, console: Console
) -> tuple[nn.Module, Outcome]:
    """Weights, score before, injection, training, score after."""
    recipe, base, encoded = prepared.recipe, prepared.base, prepared.encoded
    method, training = recipe.method, recipe.training
    set_seed(recipe.seed)
    with clock.stage("load"):
        dtype = weights_dtype(recipe.base, method.trains_base_weights)
        loaded = load_weights(base, encoded.head, dtype, accelerator.device, training.dropout)
        give_back_memory()  # of what was quantized

    def score(reader: Reader, examples: Examples) -> Score:
        tokens, pad = training.micro_batch_tokens, encoded.pad_token_id
        return evaluate(reader, examples, encoded.head, recipe.task, pad, tokens, accelerator)

    def answer(model: nn.Module) -> list[str]:
        return answer_prompts(model, encoded, base.tokenizer, accelerator)

    layouts: tuple[Layout, ...] = ("padded", "packed") if training.layout == "auto" else ("padded",)
    with clock.stage("evaluate"):
        of_base = choose_reader(
            loaded.model, encoded, recipe.task, layouts, accelerator, gradients=False
        )
        before = score(of_base.reader, encoded.test)
    with clock.stage("generate"):
        answers_before = answer(loaded.model)
    with clock.stage("inject"):
        base_memory = footprint(loaded.model)
        model = method.inject(loaded.model, encoded, loaded.head)
        train_added_tokens(model, base.added_ids)
        if prepared.start:
            restore_start(model, prepared.start, recipe, base)
        trainable = count(trainable_parameters(model).values())
    with clock.stage("self-check"):
        layouts = tuple(layout for layout in layouts if layout in method.layouts)
        chosen = choose_reader(model, encoded, recipe.task, layouts, accelerator, gradients=True)
        for note in dict.fromkeys((*of_base.notes, *chosen.notes)):
            console.print(f"  [yellow]note:[/] {note}", highlight=False)
    with clock.stage("evaluate"):
        begun = {"start": score(chosen.reader, encoded.test).metrics} if prepared.start else {}
    with clock.stage("train"):
        accelerator.init_trackers(recipe.name or "peftkit")
        result = train(
            chosen.reader,
            encoded,
            recipe,
            accelerator,
            lambda reader: score(reader, encoded.validation).metrics,
            console,
        )
    with clock.stage("evaluate"):
        after = score(chosen.reader, encoded.test)
        baselines = {**recipe.task.baselines(encoded), **begun}
    with clock.stage("generate"):
        samples = tuple(
            Sample(prompt.row, prompt.text, prompt.expected, *answers)
            for prompt, *answers in zip(encoded.prompts, answers_before, answer(model), strict=True)
        )
    peak = peak_memory_mb(accelerator.device)
    accelerator.end_training()  # closes trackers and the process group: nothing is shared below
    notes = chosen.notes
    return model, Outcome(
        before, baselines, after, samples, result, notes, trainable, base_memory, peak
    )


def save_adapter(
    model: nn.Module, outcome: Outcome, prepared: Prepared, folder: Path, accelerator: Accelerator
) -> tuple[Path, Record]:
    """The adapter's files under a temporary name, and what they say of themselves."""
    recipe, base = prepared.recipe, prepared.base
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    vocabulary = min(len(base.tokenizer), len(embeddings.weight))
    with accelerator.autocast():
        probes = take_probes(model, vocabulary, base.added_ids, tolerance(recipe.base))
    unchecked, digests = write_weights(model, recipe.method, base, prepared.encoded.head, folder)
    adapter = Record(
        recipe=published_recipe(recipe),
        base={
            **fingerprint(base).to_json(),
            "dtype": str(dtype).removeprefix("torch."),
            "unquantized": unquantized_modules(model),
            "num_hidden_layers": getattr(base.config, "num_hidden_layers", None),
        },
        tokenizer_sha256=tokenizer_sha256(base.tokenizer),
        chat_template_sha256=chat_template_sha256(base.tokenizer),
        head=prepared.encoded.head,
        weights=digests,
        tensors=tensor_digests(unchecked),
        peft_config=peft_config(unchecked),
        configs=config_digests(unchecked),
        metrics=outcome.metrics(),
        probes=probes,
        versions=versions(),
    )
    adapter.write(unchecked)
    prompt = recipe.task.prompt_code() if adapter.head.generation else ""
    write_card(unchecked, folder.name, adapter, recipe.task.command, prompt)
    return unchecked, adapter


def run_record(
    prepared: Prepared,
    planned: dict[str, Any],
    outcome: Outcome,
    adapter: Record,
    saved: Path,
    probe_difference: float,
    clock: Clock,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The content of run.json, from which the receipt is made."""
    after, result = outcome.after, outcome.result
    padding = 1 - result.num_tokens / max(1, result.num_padded_tokens)
    training = asdict(result)
    training["train_seconds"] = training.pop("seconds")
    folder = saved.parent
    return {
        "status": "finished",
        "name": folder.name,
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "folder": str(folder),
        "recipe": json.loads(prepared.recipe.model_dump_json()),
        "base": adapter.base,
        "device": device_name(accelerator.device),
        "trainable_parameters": outcome.trainable_parameters,
        "total_parameters": prepared.total_parameters,
        "base_memory_mb": outcome.base_memory.total_mb,
        "adapter_bytes": adapter_bytes(saved),
        "command": prepared.recipe.task.command,
        "serve": commands(OpenedAdapter(saved, adapter, prepared.recipe, prepared.base), folder),
        "start": prepared.start.to_json() if prepared.start else None,
        "test": {
            "before": outcome.before.metrics,
            "baseline": outcome.baselines,
            "after": after.metrics,
            "intervals": after.intervals,
            "tables": [asdict(table) for table in after.tables],
            "matrices": [asdict(matrix) for matrix in after.matrices],
            "mistakes": [asdict(mistake) for mistake in after.mistakes],
            "samples": [asdict(sample) for sample in outcome.samples],
        },
        "training": training,
        "seconds": clock.seconds,
        "peak_memory_mb": outcome.peak_memory_mb,
        "plan": planned,
        "self_check": {"layout": result.layout, "notes": list(outcome.notes)},
        "probes": {"count": len(adapter.probes), "max_difference": probe_difference},
        "ledger": prepared.ledger.with_padding(padding).to_json(),
        "versions": adapter.versions,
    }
