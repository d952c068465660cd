"""A CSV file as rows whose values are checked where they stand: a mistake is named by file, row and column."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..errors import UserError, nearest, shown
from ..files import read_text


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV file."""

    where: str
    """File and line: `sweep.csv:12`."""
    values: dict[str, str]

    def text(self, column: str) -> str:
        """The value of a column, without blanks around it."""
        return self.values[column].strip()

    def number(self, column: str, least: float = -math.inf, below: float = math.inf) -> float:
        """A finite number in [least, below); raises UserError."""
        value = self._float(column)
        if not (math.isfinite(value) and least <= value < below):
            raise self.wrong(column, _range(least, below))
        return value

    def whole(self, column: str, least: int, most: int) -> int:
        """A whole number in [least, most]; raises UserError."""
        value = self._float(column)
        if not (least <= value <= most and value == int(value)):
            raise self.wrong(column, f"a whole number from {least} to {most}")
        return int(value)

    def wrong(self, column: str, expected: str) -> UserError:
        """The error of a value that is not what it must be."""
        found = f"is {shown(self.text(column))}" if self.text(column) else "is empty"
        return UserError(f"{self.where}: {column} {found}, expected {expected}; mend or remove this row")

    def _float(self, column: str) -> float:
        """The value as a number; NaN if it is none."""
        try:
            return float(self.text(column))
        except ValueError:
            return math.nan


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """All rows of a file that has at least these columns; raises UserError."""
    text = read_text(path, f"give a CSV file with {','.join(columns)}")
    return list(rows_of(io.StringIO(text, newline=""), path.name, columns))


def rows_of(stream: TextIO, name: str, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of an open CSV file; raises UserError."""
    reader = csv.DictReader(stream, restkey="", restval=None)
    try:
        header = [column.strip() for column in reader.fieldnames or ()]
        if not header:
            raise UserError(f"{name} is empty; expected a first line with {','.join(columns)}")
        for column in columns:
            if column not in header:
                raise UserError(f"{name}:1: no column '{column}'{nearest(column, header)}; add it to the first line")
        twice = next((column for column, times in Counter(header).items() if times > 1), None)
        if twice is not None:
            raise UserError(f"{name}:1: two columns are called '{twice}'; rename or remove one")
        reader.fieldnames = header
        for values in reader:
            where = f"{name}:{reader.line_num}"
            if "" in values or None in values.values():
                raise UserError(f"{where}: expected {len(header)} values, as the first line has; mend this row")
            yield Row(where, values)
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: not CSV ({error}); mend this row") from None


def _range(least: float, below: float) -> str:
    bounds = [
        f"{words} {bound:g}" for words, bound in (("of at least", least), ("below", below)) if math.isfinite(bound)
    ]
    return " ".join(["a number", " and ".join(bounds)]).strip()
