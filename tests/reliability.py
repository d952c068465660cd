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


SECTIONS = (
    Section(
        "greedy",
        "Greedy output",
        "Token ids, finish reasons and texts in float32 with drafts, against plain decoding by stock vLLM. A row's"
        " requests count once for every γ of it.",
        "make proof",
        lambda rows: (
            f"{len(rows)} configurations, {total(rows, 'tokens'):,} tokens, {total(rows, 'differences')} differences"
        ),
    ),
    Section(
        "lifecycles",
        "Lifecycles",
        "The same while requests and weights come and go; `happened` counts what is being tested.",
        "make proof",
        lambda rows: (
            f"{len(rows)} runs, {total(rows, 'tokens'):,} tokens, {total(rows, 'differences')} requests differ"
        ),
    ),
    Section(
        "sampling",
        "Sampled output",
        "Joint counts of whole answers against their exact probabilities, computed by transformers. p is of a"
        " chi-square test at level 1e-5; KL (nats) must lie within the band of exact sampling; the smallest bias is the"
        " total variation that the test would catch with probability 0.99.",
        "make proof",
        lambda rows: f"{len(rows)} comparisons, smallest p {min(row['p'] for row in rows):.2g}",
    ),
    Section(
        "logprobs",
        "Returned log-probabilities",
        "Those that requests get back, against a separate forward pass of the policy in float32, in nats.",
        "make proof",
        lambda rows: (
            f"{total(rows, 'tokens'):,} tokens, largest difference {max(row['largest difference'] for row in rows):.2g}"
        ),
    ),
    Section(
        "KV isolation",
        "KV isolation",
        "Block tables are filled behind their ends with blocks of other running requests before every step; every slot"
        " and every block that a pass of policy or drafter writes is looked at.",
        "make proof",
        lambda rows: (
            f"{total(rows, 'poisoned_entries'):,} poisoned entries, {total(rows, 'foreign_writes')} foreign writes,"
            f" {total(rows, 'differences')} differences"
        ),
    ),
    Section(
        "refused by vLLM",
        "Refused by vLLM",
        "Sampling parameters that vLLM takes with no speculation at all.",
        "make proof",
        lambda rows: ", ".join(row["parameter"] for row in rows),
    ),
    Section(
        "mutants",
        "Mutants",
        "The code is broken on purpose, one fault a process, and the named test must turn red by an assertion of its"
        " own, having passed without the fault.",
        "make mutants",
        lambda rows: f"{yes(rows, 'killed')} killed",
    ),
    Section(
        "faults",
        "Faults",
        "Injected for real. `outcome` is what was seen.",
        "make reliability",
        lambda rows: f"{yes(rows, 'survived')} survived",
    ),
    Section(
        "soak",
        "Soak",
        "Refit and rollout again and again on a tiny model, sleeping now and then. Slopes are per 1,000 cycles after"
        " the warm-up (Theil and Sen, 95 % interval).",
        "make reliability",
        lambda rows: f"{max(row['cycles'] for row in rows):,} cycles, {len(rows)} resources within their bounds",
    ),
    Section(
        "acceptance",
        "Acceptance during the soak",
        "In blocks of cycles.",
        "make reliability",
        lambda rows: f"{min(row['rate'] for row in rows):.3f} to {max(row['rate'] for row in rows):.3f}",
    ),
    Section(
        "leaks",
        "Leaks that the soak must see",
        "Kept on purpose: the upper end of the slope's interval, which must lie below the bound where nothing leaks.",
        "make reliability",
        lambda rows: f"{sum(row['high'] > row['bound'] for row in rows)} of {len(rows)} seen",
    ),
    Section(
        "fuzz",
        "Fuzzing",
        "What users can give, made by hypothesis from valid documents and from nothing. Only the package's own one-line"
        " errors may come out, and nothing may be written outside the run's folder.",
        "make reliability",
        lambda rows: (
            f"{total(rows, 'inputs'):,} inputs, {total(rows, 'tracebacks')} tracebacks,"
            f" {total(rows, 'writes outside')} writes outside"
        ),
    ),
    Section(
        "alarms",
        "Alarms",
        "Each with a real cause; steps of training until it rings.",
        "make reliability",
        lambda rows: f"{len({row['alarm'] for row in rows})} alarms, each seen in engine and job",
    ),
    Section(
        "licences",
        "Licences",
        "Of all distributions in requirements/cpu.lock.",
        "make reliability",
        lambda rows: f"{total(rows, 'distributions')} distributions",
    ),
)


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
        if note := record.content.get("note"):
            runs[note] = None
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
