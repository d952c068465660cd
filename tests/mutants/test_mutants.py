"""Tests of the tests: every deliberate fault turns the test red that is named for it, by that test's own judgement.

`make mutants` runs all, in a process each. The tests are run once without a fault, for they must be green then.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.fault import Fault
from tests.mutants.faults import FAULTS
from tests.mutants.run import Outcome, run
from tests.proof import Proof

QUICK = (
    "nibbles-swapped",
    "wrong-zero-point",
    "short-drafts-count-as-rejected",
    "kept-against-the-evidence",
    "metrics-since-the-start",
)
"""Enough to know that the machinery works."""
Control = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Control:
    """What comes of a test without a fault; those of one file that are needed run together."""
    items: list[Any] = request.session.items
    named = {item.callspec.params["fault"].test for item in items if hasattr(item, "callspec")}

    @cache
    def of_file(file: str) -> dict[str, Outcome]:
        tests = sorted(test for test in named if file_of(test) == file)
        return run(tests, tmp_path_factory.mktemp("control") / "report.xml")

    return lambda test: of_file(file_of(test))[test]


def file_of(test: str) -> str:
    return test.partition("::")[0]


def by_file(fault: Fault) -> tuple[str, str]:
    return fault.test, fault.name


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=() if fault.name in QUICK else pytest.mark.full)
        for fault in sorted(FAULTS.values(), key=by_file)
    ],
)
def test_a_fault_turns_its_test_red(fault: Fault, control: Control, tmp_path: Path, proof: Proof) -> None:
    without, outcome = control(fault.test), run([fault.test], tmp_path / "report.xml", fault.name)[fault.test]
    killed = without.word == "passed" and outcome.word == "failed"
    proof.row(
        "mutants",
        fault=fault.says,
        where=fault.where,
        test=fault.test,
        killed=killed,
        seconds=round(outcome.seconds, 1),
    )
    assert without.word == "passed"
    assert outcome.word == "failed"


class Collected:
    """pytest's list of what there is, from a run that only collects."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.ids = {item.nodeid for item in session.items}


def test_what_is_broken_and_what_must_see_it_exist() -> None:
    for fault in FAULTS.values():
        fault.target()
    tests = {fault.test for fault in FAULTS.values() if not fault.test.startswith("tests/v2/")}  # Triton's interpreter
    found = Collected()
    pytest.main(["--collect-only", "--quiet", *sorted(map(file_of, tests))], plugins=[found])
    assert tests - found.ids == set()
