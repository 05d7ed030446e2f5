"""Turns passages with their questions into rows for ranking: a question, a passage, and 1 or 0.

Passages are dealt into blocks of six. The candidates of a question are the passages of its block,
so that a split by blocks has no passage of another split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from peftkit.data.rows import Table

BLOCK: Final = 6
"""Number of passages in a block."""
COLUMNS: Final = ("text", "text_pair", "score", "query", "block")


def ranked_passages(table: Table, group: str) -> Table:
    """Returns a table with a row for each question and each passage of its block.

    Args:
        table: rows with `passage`, `questions`, `document` and, if there are several, `language`.
        group: the column of groups in the user's recipe, for a note.
    """
    apart = "a block may be in two splits; `--task.data.group block` keeps each in one"
    return replace(
        table,
        columns=COLUMNS,
        rows=tuple(enumerate(_rows([values for _, values in table.rows]), start=1)),
        unit="row",
        notes=() if group == "block" else (apart,),
        other_tasks=COLUMNS[3:],
    )


def _rows(passages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    languages: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for passage in passages:
        languages[str(passage["language"])].append(passage)
    for language, own in languages.items():
        num_blocks = max(1, len(own) // BLOCK)
        for place, passage in enumerate(own):
            block = place % num_blocks
            for number, question in enumerate(passage["questions"], start=1):
                for candidate in own[block::num_blocks]:
                    yield {
                        "text": question,
                        "text_pair": candidate["passage"],
                        "score": int(candidate is passage),
                        "query": f"{language} {passage['document']}.{number}",
                        "block": f"{language} {block + 1}",
                    }
