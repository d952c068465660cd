"""Seconds of one call among calls that evict each other's data from the cache."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

SAMPLES = 25
"""Rounds after which a median is not improved."""
CYCLES_PER_SECOND = 2e9
"""At or above the clock of any GPU: a wait in cycles is then at least as long as meant."""

Run = Callable[[], object]


class Budget:
    """Divides what is left of a time budget evenly among the measurements still to come."""

    def __init__(self, seconds: float, measurements: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._left = measurements

    def share(self) -> float:
        """Seconds for the next measurement; 0 once the budget is spent."""
        share = max(0.0, self._end - self._clock()) / max(self._left, 1)
        self._left -= 1
        return share


def seconds_per_call(runs: Sequence[Run], device: torch.device, budget_s: float) -> float:
    """Median over rounds of the mean seconds per call, where a round calls each of `runs` once.

    Args:
        runs: calls that do the same work on different data, together larger than the last-level cache.
        device: where they run.
        budget_s: rounds end after so many seconds; there is at least one, so one slow call may take longer.
    """
    one_round = _cuda_round(runs, device) if device.type == "cuda" else _cpu_round(runs)
    samples: list[float] = []
    started = time.perf_counter()
    while not samples or (len(samples) <= SAMPLES and time.perf_counter() - started < budget_s):
        samples.append(one_round())
    # The first round warms up. Where the budget allows no second one, it is long enough to not matter.
    return median(samples[1:] or samples) / len(runs)


def _cpu_round(runs: Sequence[Run]) -> Callable[[], float]:
    def one_round() -> float:
        start = time.perf_counter()
        for run in runs:
            run()
        return time.perf_counter() - start

    return one_round


def _cuda_round(runs: Sequence[Run], device: torch.device) -> Callable[[], float]:
    """Calls are queued while the GPU waits, then run back to back, as a CUDA graph would run them.

    A graph itself would need a private memory pool and a cuBLAS workspace that outlive the measurement.
    """
    for run in runs:  # loads kernels and lets libraries choose among them
        run()
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wait_s = 1e-3

    def one_round() -> float:
        nonlocal wait_s
        torch.cuda._sleep(int(wait_s * CYCLES_PER_SECOND))
        start.record()
        for run in runs:
            run()
        end.record()
        if start.query():
            wait_s *= 2  # queueing outlasted the wait: this sample holds host time
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return one_round
