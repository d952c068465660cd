"""The one judgement of all targets: bad input is a `UserError` of one short line, quickly, and nothing else happens."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.errors import UserError
from tests.proof import Proof

from .confinement import Escaped, confined

LONGEST_MESSAGE = 2000
"""Characters: what fits on a screen."""
SECONDS = 5.0
"""Of the processor, for one input of a megabyte at most. Growth with its square would take minutes."""


@dataclass
class Tally:
    """What became of all inputs of one target."""

    target: str
    folder: Path
    """The only place that may be written to."""
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    tracebacks: int = 0
    outside: int = 0
    slowest: float = 0.0
    """Seconds of the processor."""
    trouble: list[str] = field(default_factory=list)

    def judge(self, read: Callable[[], Any]) -> bool:
        """Count one input; True if it was accepted. Raises AssertionError unless it was accepted or refused well."""
        self.inputs += 1
        started = time.process_time()
        refusal: UserError | None = None
        with confined(self.folder) as outside:
            try:
                read()
            except UserError as error:
                refusal = error
            except Escaped:
                pass
            except Exception:
                self.tracebacks += 1
                raise
        took = time.process_time() - started
        self.slowest = max(self.slowest, took)
        self.outside += bool(outside)
        assert not outside, outside
        assert took < SECONDS, f"took {took:.1f} s"
        if refusal is None:
            self.accepted += 1
            return True
        self.refused += 1
        check_message(str(refusal))
        return False


def check_message(text: str) -> None:
    """One line that a person can read."""
    assert text.strip(), "an empty message"
    assert text.isprintable(), f"not one printable line: {text[:200]!r}"
    assert len(text) <= LONGEST_MESSAGE, f"{len(text)} characters: {text[:200]!r}"


@contextmanager
def counted(target: str, folder: Path, proof: Proof, both: bool = True) -> Iterator[Tally]:
    """A tally that is noted in the proof, whatever happens.

    Args:
        both: whether inputs must have been accepted as well as refused: a target that refuses all tests nothing.
    """
    tally = Tally(target, folder)
    try:
        yield tally
    finally:
        proof.row(
            "fuzz",
            target=target,
            inputs=tally.inputs,
            refused=tally.refused,
            accepted=tally.accepted,
            tracebacks=tally.tracebacks,
            **{"writes outside": tally.outside, "slowest ms": round(1e3 * tally.slowest)},
        )
    assert tally.refused, f"{target} refused nothing"
    assert tally.accepted or not both, f"{target} accepted nothing"
