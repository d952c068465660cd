"""What tests prove, counted while they run.

`pytest --proof FILE` runs the full tier as well, and writes the tables that tests filled; docs/reliability.md is made
of such files alone (tests/reliability.py).
"""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import machine
from nemo_rl_efficientrollout.files import write_whole


class Proof:
    """Tables of one test process. A test adds its row before it judges, so that what fails is seen as well."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._tables: dict[str, list[dict[str, Any]]] = {}
        self._outcomes: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether there is time: an hour instead of minutes for all tests together."""
        return self._file is not None

    def row(self, table: str, **cells: Any) -> None:
        """Add a row of JSON values; all rows of a table have the same cells."""
        self._tables.setdefault(table, []).append(cells)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.outcome] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._file is None:
            return
        content = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "tests": [str(path) for path in session.config.args],
            "outcomes": self._outcomes,
            "tables": self._tables,
        }
        write_whole(self._file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
