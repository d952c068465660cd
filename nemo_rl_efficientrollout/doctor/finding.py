"""What a check says."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "not checked"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report. Only `fail` means no-go."""

    name: str
    """Of the check, and where it matters of the environment."""
    verdict: Verdict
    found: str
    """One line."""
    advice: str = ""
    """What to do, one line; empty where there is nothing to do."""


def is_go(findings: Iterable[Finding]) -> bool:
    """Whether a job may take this machine: warnings are allowed."""
    return all(finding.verdict != "fail" for finding in findings)
