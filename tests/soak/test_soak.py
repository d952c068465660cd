"""Cycles of refit and rollout without end: nothing grows, versions stay equal, acceptance stays what it was.

What may grow is bounded by a total for each resource, so that a longer soak finds a smaller leak: 1 MiB of memory over
2,000 cycles is half a KiB in each. The bound holds for the whole interval of the slope, not for its middle.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import save_tiny_model
from tests.proof import Proof
from tests.soak.growth import PER, growth
from tests.soak.resources import Held
from tests.soak.rollouts import Rollouts

pytestmark = pytest.mark.engine
CYCLES = {True: 2000, False: 60}
"""Of the full tier, of every test run."""
READINGS, BLOCKS = 60, 20
"""Of what is held, and of acceptance, in a soak."""
LET_PASS = Held(memory=1 << 20, blocks=500, tensors=1, tensor_bytes=512, files=1, threads=1, graphs=1, entries=20)
"""Growth over a whole soak."""
STEADY = {True: 0.02, False: 0.1}
"""Change of the acceptance rate over a whole soak, up or down: a short one drafts too little to tell more."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), hidden=64, sharpness=2.0)


def soak(rollouts: Rollouts, cycles: int, leak: Callable[[], Any] = lambda: None) -> tuple[list[int], list[Held]]:
    """So many cycles; what was held after some of them."""
    at, readings = [], []
    for number in range(1, cycles + 1):
        rollouts.cycle()
        leak()
        if number % (cycles // READINGS) == 0:
            at.append(number)
            readings.append(rollouts.held())
    return at, readings


def grown(at: list[int], readings: list[Held], proof: Proof | None = None) -> list[str]:
    """Names of what may have grown beyond what is let pass."""
    found = []
    for name in Held._fields:
        series = growth(at, [getattr(reading, name) for reading in readings])
        allowed = PER * getattr(LET_PASS, name) / at[-1]
        if proof is not None:
            proof.row("soak", resource=name, cycles=at[-1], **_rounded(series._asdict()), allowed=allowed)
        if series.beyond(allowed):
            found.append(name)
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {
        name: float(f"{value:.4g}") if name in ("slope", "low", "high") else value for name, value in values.items()
    }


def test_nothing_grows(model: Path, proof: Proof) -> None:
    rollouts = Rollouts(model, enforce_eager=not proof.full)
    at, readings = soak(rollouts, CYCLES[proof.full])
    assert grown(at, readings, proof) == []
    assert steady(rollouts, CYCLES[proof.full], proof)


def steady(rollouts: Rollouts, cycles: int, proof: Proof) -> bool:
    """Whether acceptance neither rises nor falls from block to block."""
    each = cycles // BLOCKS
    ends, rates = list(range(each, cycles + 1, each)), []
    for end in ends:
        drafted, accepted = (sum(column) for column in zip(*rollouts.counted[end - each : end], strict=True))
        rates.append(accepted / drafted)
        proof.row("soak, acceptance", after_cycles=end, drafted=drafted, accepted=accepted, rate=round(rates[-1], 4))
    series, allowed = growth(ends, rates), PER * STEADY[proof.full] / cycles
    proof.row("soak", resource="acceptance", cycles=cycles, **_rounded(series._asdict()), allowed=allowed)
    return -allowed <= series.low and series.high <= allowed


LEAKS: dict[str, Callable[[list[Any]], Any]] = {
    "tensors": lambda kept: kept.append(torch.empty(256)),  # 1 KiB
    "files": lambda kept: kept.append(open("/dev/null")),  # noqa: SIM115 - never closed on purpose
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found(model: Path, name: str) -> None:
    kept: list[Any] = []
    at, readings = soak(Rollouts(model), CYCLES[False], lambda: LEAKS[name](kept))
    assert name in grown(at, readings)
