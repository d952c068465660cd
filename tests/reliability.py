"""docs/reliability.md from what `pytest --proof` recorded: python -m tests.reliability

Nothing is written by hand between a table's title and the next: counts are counted here, from the records.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nemo_rl_efficientrollout.files import write_whole

RECORDS = Path("docs/reliability")
PAGE = Path("docs/reliability.md")
Rows = Sequence[dict[str, Any]]


class Section(NamedTuple):
    """One table of the page."""

    table: str
    """Its name in the records."""
    title: str
    text: str
    command: str
    summary: Callable[[Rows], str]
    """The claim, counted."""


def total(rows: Rows, cell: str) -> int:
    return sum(row[cell] for row in rows)


def yes(rows: Rows, cell: str) -> str:
    return f"{sum(row[cell] is True for row in rows)} of {len(rows)}"


SECTIONS: tuple[Section, ...] = ()


class Record(NamedTuple):
    """What one test process left."""

    file: str
    content: dict[str, Any]

    @property
    def failed(self) -> int:
        return sum(count for outcome, count in self.content["outcomes"].items() if outcome == "failed")


def read(folder: Path) -> list[Record]:
    return [Record(file.name, json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]


def render(records: Sequence[Record]) -> str:
    """The page, in markdown. A table that was not recorded is named as such."""
    parts = [_INTRODUCTION, "| what | result | command |\n|---|---|---|\n"]
    details = []
    for section in SECTIONS:
        sources = [record for record in records if section.table in record.content["tables"]]
        rows = [row for record in sources for row in record.content["tables"][section.table]]
        result = section.summary(rows) if rows else "not recorded"
        broken = sum(record.failed for record in sources)
        if broken:
            result += f"; **{broken} tests failed**"
        parts.append(f"| [{section.title}](#{_anchor(section.title)}) | {result} | `{section.command}` |\n")
        details.append(f"\n## {section.title}\n\n{section.text}\n\n{_where(sources)}\n\n{_table(rows)}")
    return "".join(parts + details)


_INTRODUCTION = """# Reliability

What is proven, counted by the tests themselves. `make reliability` runs everything that is named here and writes this
page anew; `python -m tests.reliability` renders it from the records in `docs/reliability/`. A part of every suite is
in `make test`. All of it ran on CPUs; nothing here was run on a GPU.

"""


def _where(sources: Sequence[Record]) -> str:
    """When and on what, a line for every kind of machine."""
    runs = {}
    for record in sources:
        about, day = record.content["machine"], record.content["date"][:10]
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        runs[f"{day}; {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB; {versions}."] = None
    return "\n".join(runs)


def _table(rows: Rows) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return "".join(c for c in title.lower() if c.isalnum() or c in " -").replace(" ", "-")


def main() -> int:
    write_whole(PAGE, render(read(RECORDS)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
