"""Notes on relations: names that look alike, rare ones, and entities at doubtful places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from peftkit.data.row_contract import Splits
from peftkit.tasks.reading.entity_marks import ends_inside_words
from peftkit.tasks.reading.labels import alike, scarce, with_rows
from peftkit.tasks.reading.marked_texts import MarkedTexts
from peftkit.tasks.reading.relation_columns import named_none
from peftkit.tasks.reading.text_remarks import text_remarks


def relation_remarks(splits: Splits, data: MarkedTexts) -> Iterator[str]:
    """Yields notes about the relations and texts of all splits."""
    counts = {
        name: Counter(str(row.values["relation"]) for row in rows)
        for name, rows in splits.named().items()
    }
    none = data.no_relation
    if none not in counts["train"] and (other := named_none(counts["train"])):
        yield (
            f"no row has the relation `{none}`; if `{other}` means none, so that scores leave "
            f'it out, set `--task.data.no-relation "{other}"`'
        )
    total = sum(counts.values(), Counter[str]())
    for group in alike(total, lambda _: None):
        shown = with_rows(group, total)
        yield f"relations that look alike count as different ones: {shown}; correct one"
    yield from scarce(counts)
    yield from ends_inside_words(splits.train)
    yield from text_remarks([row.values["text"] for row in splits.train], data.text)
