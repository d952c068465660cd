"""Clocks of this process that jump by hours, forward and back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

HOURS = (3.0, -5.0, 1.0, -2.0, 4.0, -1.0)
EVERY = 200
"""Readings between two jumps."""


@contextmanager
def jumping_clocks() -> Iterator[list[float]]:
    """`time`, `monotonic` and `perf_counter` jump together; yields the jumps that were made, in hours."""
    made: list[float] = []
    readings = 0

    def jumping(read):  # type: ignore[no-untyped-def]
        def call() -> float:
            nonlocal readings
            readings += 1
            if readings % EVERY == 0:
                made.append(HOURS[len(made) % len(HOURS)])
            return read() + 3600.0 * sum(made)

        return call

    names = ("time", "monotonic", "perf_counter")
    patches = [mock.patch.object(time, name, jumping(getattr(time, name))) for name in names]
    for patch in patches:
        patch.start()
    try:
        yield made
    finally:
        for patch in patches:
            patch.stop()
