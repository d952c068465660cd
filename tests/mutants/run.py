"""Runs pytest in a process of its own, with or without a fault, and reads what came of each test."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SECONDS = 900
"""After which a test counts as hanging."""
BY_THE_TEST = re.compile(r"tests/\S+\.py:\d+: (AssertionError|Failed)")
"""Where and of what a test ends that judged for itself: not where something below it broke."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one test."""

    word: str
    """`passed`; `failed` by its own assertion; else what happened instead."""
    seconds: float
    """Of the process, start included."""


def run(tests: Iterable[str], report: Path, mutant: str | None = None) -> dict[str, Outcome]:
    """Outcome of every one of `tests`, pytest ids of one file. `report` is written."""
    tests = list(tests)
    fault = ["-p", "tests.mutants.plugin", "--mutant", mutant] if mutant else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *fault, *tests]
    interpreted = {"TRITON_INTERPRET": "1"} if tests[0].startswith("tests/v2/") else {}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | interpreted, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {test: Outcome(f"still ran after {SECONDS} s", SECONDS) for test in tests}
    seconds = time.monotonic() - started
    words = _words(report) if report.exists() else {}
    lost = f"did not run, pytest ended with {done.returncode}: {done.stdout[-300:]}"
    return {test: Outcome(words.get(test, lost), seconds) for test in tests}


def _words(report: Path) -> dict[str, str]:
    """By pytest id, from pytest's own report."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
        found[test] = "passed"
        for child in case:
            if child.tag == "failure":  # of the test's own phase, not of its fixtures
                found[test] = _of_failure(child)
            elif child.tag in ("error", "skipped"):
                found[test] = f"{child.tag}: {child.get('message', '')}"
    return found


def _of_failure(failure: ElementTree.Element) -> str:
    last = (failure.text or "").strip().splitlines()[-1:]
    if last and BY_THE_TEST.fullmatch(last[0]):
        return "failed"
    return f"raised: {failure.get('message', '')}"
