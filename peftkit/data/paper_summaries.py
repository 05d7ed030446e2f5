"""Turns papers with summaries of several aspects into rows: a part of the paper and a summary
(ACLSum, Takeshita et al. 2024, arXiv:2403.05303).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from peftkit.data.rows import Table

SECTIONS: Final = ("abstract", "introduction", "conclusion")
COLUMNS: Final = ("id", "aspect", *SECTIONS, "summary")


def paper_summaries(tables: Mapping[str, Table], aspect: str) -> dict[str, Table]:
    """Returns tables with a row for each paper and each aspect.

    Args:
        tables: the papers of each split.
        aspect: `challenge`, `approach` or `outcome`; empty for all.
    """
    return {
        split: Table(
            f"{table.name} {aspect}".strip(),
            COLUMNS,
            tuple(enumerate(_rows(table, aspect), start=1)),
            other_tasks=COLUMNS,
        )
        for split, table in tables.items()
    }


def _rows(table: Table, aspect: str) -> list[dict[str, object]]:
    return [
        {
            "id": paper["id"],
            "aspect": name,
            **{section: " ".join(paper["sentences"][section]) for section in SECTIONS},
            "summary": summary,
        }
        for _, paper in table.rows
        for name, summary in paper["summary"].items()
        if aspect in ("", name)
    ]
