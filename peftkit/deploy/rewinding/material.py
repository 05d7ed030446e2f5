"""Reads the data on which a rewound adapter is scored: the training's splits and retention data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftkit.adapters.loading import OpenedAdapter
from peftkit.bases.token_ids import check_ids
from peftkit.data.encoded import Encoded, Examples, Prompt
from peftkit.data.reading import read_source
from peftkit.data.rows import check_columns
from peftkit.data.splits import Splits, clean_rows, load_splits
from peftkit.errors import AdapterError, DataError, MethodError, MissingPackageError
from peftkit.evaluation.retention import DRAWN_FROM, Retention, load_texts
from peftkit.metrics.metric import Metric, TextMetric

LABELLED_ROWS = 1000
"""Largest number of labelled rows for retention, unless the user gives another number."""


TEXT_LOSS = Metric("loss", higher_is_better=False)


@dataclass(frozen=True)
class Material:
    """The data and metric with which an adapter is scored."""

    encoded: Encoded
    metric: Metric
    """The task's metric, chosen by the recipe."""
    retention: Retention | None
    texts: tuple[str, ...] = ()
    """General texts that measure a language model's retention; empty for other tasks."""
    rows: Examples | None = None
    """Labelled rows of another domain that measure retention for other tasks; None if not given."""
    row_prompts: tuple[Prompt, ...] = ()
    """Prompts of `rows` if the metric scores written texts; empty for other metrics."""

    @property
    def validation_prompts(self) -> tuple[Prompt, ...]:
        """Prompts of the validation split if the metric scores written texts; empty for others."""
        writes = isinstance(self.metric, TextMetric)
        return self.encoded.validation_prompts if writes else ()

    @property
    def retention_metric(self) -> Metric | None:
        """Retention's metric: `loss` for texts, the task's metric for rows, None without data."""
        if self.retention is None:
            return None
        return TEXT_LOSS if self.texts else self.metric

    @property
    def retention_settings(self) -> dict[str, str | int] | None:
        """Settings that decide how retention is measured; None if retention is not measured."""
        if self.retention is None:
            return None
        read_by_task = {"text", "max_rows", "max_length"} if self.rows else set()
        return self.retention.model_dump(exclude=read_by_task)


def gather(adapter: OpenedAdapter, retention: Retention | None) -> Material:
    """Reads the training's splits and the retention data. Loads no weights.

    Raises:
        DataError: the training's data or the retention data cannot be read.
        AdapterError: another tool saved the adapter, or the data has other classes.
        MethodError: the task's loss compares with the model before training.
    """
    task, head = adapter.recipe.task, adapter.record.head
    if not adapter.record.base:
        raise AdapterError(
            "another tool saved the adapter, so the data to score it on is unknown",
            "give a run folder of peftkit",
        )
    try:
        splits, _ = load_splits(task, adapter.recipe.split_seed)
    except DataError as error:
        raise DataError(
            f"the data of the training is needed, and cannot be read: {error.message}",
            "give the run folder, whose recipe.json says where the data is, and run the command "
            "in the folder in which the run was started",
        ) from error
    if task.loss().needs_start_values:
        raise MethodError(
            "this adapter cannot be rewound: its loss compares with the model before training",
            "keep the adapter as it is",
        )
    encoded = task.encode(splits, adapter.base)
    if encoded.head.labels != head.labels:
        raise AdapterError(
            "the data that the recipe names has other classes than the adapter",
            "restore the file of the training; it was changed",
        )
    metric = task.metric(adapter.recipe.metric)
    if not head.goes_on:
        if retention is None or "path" not in retention.model_fields_set:
            return Material(encoded, metric, None)
        labelled = _labelled(adapter, splits, retention)
        prompts = labelled.prompts if isinstance(metric, TextMetric) else ()
        return Material(encoded, metric, retention, rows=labelled.test, row_prompts=prompts)
    retention = retention or Retention()
    return Material(encoded, metric, retention, _texts(adapter, retention))


def _texts(adapter: OpenedAdapter, retention: Retention) -> tuple[str, ...]:
    """Reads the general texts for a language model's retention."""
    try:
        texts = load_texts(retention)
    except MissingPackageError as error:
        raise MissingPackageError(
            f"{error.message}, which retention is measured on",
            f"{error.hint}, or give a file of general text with `--retain PATH`",
        ) from error
    tokenizer = adapter.base.tokenizer
    check_ids(adapter.base, (tokenizer(text, verbose=False)["input_ids"] for text in texts))
    return tuple(texts)


def _labelled(adapter: OpenedAdapter, splits: Splits, retention: Retention) -> Encoded:
    """Encodes the retention file's rows as a test split, without rows of the training split."""
    count = retention.max_rows if "max_rows" in retention.model_fields_set else LABELLED_ROWS
    task = adapter.recipe.task.elsewhere(retention.path, retention.subset, count)
    tables = task.adapt_tables(read_source(task.source))
    table = next(tables[name] for name in DRAWN_FROM if name in tables)
    try:
        check_columns(table, task.columns)
    except DataError as error:
        raise DataError(
            error.message, "name the columns of the file as in the training file"
        ) from error
    rows, _ = clean_rows(task, table, adapter.recipe.split_seed)
    trained = set(map(task.key, splits.train))
    unseen = tuple(row for row in rows if task.key(row) not in trained)
    if not unseen:
        raise DataError(
            f"all rows of `{table.name}` are in the training split",
            "give rows that the adapter has not seen",
        )
    others = replace(splits, test=unseen)
    task.check_splits(others)
    return task.encode(others, adapter.base)
