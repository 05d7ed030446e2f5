"""Checks of scored text pairs: scores that the objective cannot learn, and divided groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftkit.data.rows import Row
from peftkit.data.source import Texts
from peftkit.data.splits import Splits
from peftkit.errors import DataError


def check_scores(rows: Sequence[Row], data: Texts, objective: str, grouped: bool) -> None:
    """Raises DataError if a score does not fit the objective, or if all scores are equal.

    Args:
        grouped: whether pairs are ranked within groups, by metrics that need relevances.
    """
    column = f"`{data.path}`: column `{getattr(data, 'score', '')}`"
    scores = {row.values["score"] for row in rows}
    other = [row for row in rows if row.values["score"] not in (0, 1)]
    if objective == "binary" and other:
        raise DataError(
            f"{column} has {other[0].values['score']:g} in row {other[0].number}, and the "
            f"objective `binary` learns 0 and 1 ({len(other)} such rows)",
            "for ratings, set `--task.objective squared_error`",
        )
    if len(scores) == 1:
        raise DataError(
            f"{column} has the value {min(scores):g} in all {len(rows):,} rows, so there is "
            "nothing to learn",
            "check that `score` names the right column, `--task.data.score NAME`",
        )
    negative = [row for row in rows if row.values["score"] < 0]
    if grouped and negative:
        raise DataError(
            f"{column} has {negative[0].values['score']:g} in row {negative[0].number}, and NDCG "
            f"needs scores of at least 0 ({len(negative)} such rows)",
            "add a number to all scores, so that the lowest is 0",
        )


def check_both_scores(splits: Splits, data: Texts, objective: str) -> None:
    """Raises DataError if all scores of a split are equal, so that no metric can be computed."""
    metric = "the area under the ROC curve" if objective == "binary" else "a correlation"
    for name, rows in splits.named().items():
        if len({row.values["score"] for row in rows}) == 1:
            raise DataError(
                f"`{data.path}`: all scores in the {name} split are "
                f"{rows[0].values['score']:g} (rows: {len(rows):,}); {metric} needs different ones",
                "add rows, or change `validation_fraction` and `test_fraction`",
            )


def check_whole_groups(splits: Splits, data: Texts, query_of: Callable[[Row], str]) -> None:
    """Raises DataError if candidates of one group are in several splits. They are if the recipe
    names other groups in `data.group`.
    """
    found: dict[str, str] = {}
    for name, rows in splits.named().items():
        for row in rows:
            query = query_of(row)
            if found.setdefault(query, name) != name:
                raise DataError(
                    f"`{data.path}`: the candidates of `{query:.80}` are in the splits "
                    f"{found[query]} and {name}, because `data.group` is `{data.group}`",
                    "leave `task.data.group` empty, or name a column that divides no query",
                )
