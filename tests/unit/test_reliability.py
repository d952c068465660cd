"""docs/reliability.md says what the records say, and nothing else."""

import json
from pathlib import Path

import pytest

from tests.reliability import PAGE, RECORDS, SECTIONS, Record, read, render

ROOT = Path(__file__).parents[2]


def record(tables: dict[str, list[dict]], **outcomes: int) -> Record:
    about = {"cpu": "a processor", "cores": 2, "memory_gib": 24, "versions": {"python": "3.11"}}
    return Record("x.json", {"date": "2026-11-28T10:00", "machine": about, "outcomes": outcomes, "tables": tables})


MUTANTS = [
    {"fault": "accepts | all", "where": "here", "test": "a", "killed": True, "seconds": 1.25},
    {"fault": "slot", "where": "there", "test": "b", "killed": False, "seconds": 10.0},
]


def test_counts_come_from_the_rows() -> None:
    page = render([record({"mutants": MUTANTS}, passed=2)])
    assert "| [Mutants](#mutants) | 1 of 2 killed | `make mutants` |" in page
    assert r"| accepts \| all | here | a | yes | 1.25 |" in page
    assert "| slot | there | b | **no** | 10 |" in page
    assert "2026-11-28; a processor, 2 cores, 24 GiB; python 3.11." in page


def test_what_failed_and_what_was_not_recorded_is_said() -> None:
    page = render([record({"mutants": MUTANTS}, passed=1, failed=1)])
    assert "1 of 2 killed; **1 tests failed**" in page
    assert "| [Soak](#soak) | not recorded |" in page


def test_tables_of_several_records_are_one() -> None:
    page = render([record({"mutants": MUTANTS[:1]}, passed=1), record({"mutants": MUTANTS[1:]}, passed=1)])
    assert "1 of 2 killed" in page


def test_the_page_is_that_of_the_records() -> None:
    assert (ROOT / PAGE).read_text() == render(read(ROOT / RECORDS)), "run python -m tests.reliability"


@pytest.mark.parametrize("file", sorted((ROOT / RECORDS).glob("*.json")), ids=lambda file: file.stem)
def test_every_recorded_table_has_a_section(file: Path) -> None:
    assert json.loads(file.read_text())["tables"].keys() <= {section.table for section in SECTIONS}
