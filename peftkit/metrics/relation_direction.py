"""The direction of a relation between two entities, in its name: `Cause-Effect(e2,e1)`."""

from __future__ import annotations

import re

DIRECTION = re.compile(r"\s*\(\s*(e1\s*,\s*e2|e2\s*,\s*e1)\s*\)\s*$", re.IGNORECASE)


def split_direction(label: str) -> tuple[str, str]:
    """Splits a label into the relation and its direction, `e1,e2` or `e2,e1`; the direction is
    empty if the label has none.
    """
    found = DIRECTION.search(label)
    return (label[: found.start()], "".join(found[1].lower().split())) if found else (label, "")
