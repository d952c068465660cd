"""Seconds that never run backwards."""

import time


class Clock:
    """Elapsed seconds for whoever subtracts two readings: where the machine's clock is set back, this one stands still.

    `time.perf_counter` promises that by itself; a virtual machine that was moved may break the promise.
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._set_back = 0.0

    def __call__(self) -> float:
        now = time.perf_counter()
        if now < self._last:
            self._set_back += self._last - now
        self._last = now
        return now + self._set_back
