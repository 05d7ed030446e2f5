"""Pages that several benchmarks write, each the part between its own marks."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent / "README.md"


def write_part(name: str, text: str, page: Path = PAGE) -> None:
    """Replaces what stands between a part's marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
