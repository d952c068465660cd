"""What a benchmark leaves behind: a table on the terminal, JSON, and the same table in markdown."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from nemo_rl_efficientrollout.files import write_whole

from .machine import CpuShare, machine

MOST_FOREIGN = 0.03
"""Share of the machine's CPU time that others may use before a run is called disturbed: one of two OpenMP threads
that waits for a core stalls the other as well, so little is too much."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def new_parser(name: str, description: str) -> Parser:
    """The options that all benchmarks share."""
    parser = Parser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--quick", action="store_true", help="check that it runs; numbers mean nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--compiled", action="store_true", help="torch.compile instead of eager")
    return parser


def check_writable(parser: Parser, *files: Path | None) -> None:
    """Refuse before the measurement what would fail after it."""
    for file in files:
        if file is not None and not file.resolve().parent.is_dir():
            parser.error(f"cannot write {file}: its folder does not exist")


def whole_numbers(least: int) -> Any:
    """An argparse type: comma-separated whole numbers, none below `least`."""

    def read(text: str) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a list such as 1,2,4") from None
        if min(numbers) < least:
            raise argparse.ArgumentTypeError(f"{min(numbers)} is below {least}")
        return numbers

    return read


def at_least(least: int) -> Any:
    """An argparse type: one whole number, not below `least`."""

    def read(text: str) -> int:
        numbers = whole_numbers(least)(text)
        if len(numbers) != 1:
            raise argparse.ArgumentTypeError(f"'{text}' is not one number")
        return numbers[0]

    return read


class Progress:
    """One line per finished part on stderr, so that stdout holds results only."""

    def __init__(self, quiet: bool):
        self._console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        self._console.print(text)

    @contextmanager
    def phase(self, text: str) -> Any:
        """Show `text` while the block runs."""
        with self._console.status(text):
            yield


@dataclass
class Record:
    """One run of one benchmark."""

    benchmark: str
    title: str
    settings: dict[str, Any]
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    _cpu: CpuShare = field(default_factory=CpuShare)
    _foreign: float = 0.0

    def close(self) -> None:
        """The measurement is over: say whether others used the machine meanwhile."""
        self._foreign = self._cpu.foreign()
        if self._foreign > MOST_FOREIGN:
            self.notes.insert(
                0, f"DISTURBED: other processes used {self._foreign:.0%} of the CPU; repeat on a quiet machine"
            )

    def finish(self, options: Any) -> None:
        """Close, print, and write the files that were asked for."""
        if options.quick:
            self.notes.append("quick mode: the numbers mean nothing")
        self.close()
        self.show()
        self.write(options.json, options.markdown)

    def show(self) -> None:
        """Print the table and its notes on stdout."""
        table = Table(title=self.title, title_justify="left")
        for column in self.columns:
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
        console.print(table)
        for note in self.notes:
            console.print(f"· {note}", markup=False)

    def write(self, json_file: Path | None, markdown_file: Path | None) -> None:
        """Write the files that were asked for."""
        if json_file is not None:
            content = {
                "benchmark": self.benchmark,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "foreign_cpu_share": round(self._foreign, 3),
                "settings": self.settings,
                "results": self.results,
                "notes": self.notes,
            }
            write_whole(json_file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        if markdown_file is not None:
            write_whole(markdown_file, self._markdown().encode())

    def _markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cells) + " |"

        about = machine()
        where = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB"
        if about["gpu"]:
            where = f"{about['gpu']}; {where}"
        software = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        return "\n".join(
            [
                f"# {self.title}",
                "",
                f"{datetime.now(UTC).date().isoformat()}; {where}; {software}.",
                "",
                line(self.columns),
                line(["---:"] * len(self.columns)),
                *(line(row) for row in self.rows),
                "",
                *(f"- {note}" for note in self.notes),
                "",
            ]
        )
