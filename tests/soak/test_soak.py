"""Cycles of refit and rollout without end: nothing grows, versions stay equal, acceptance stays what it was.

What may grow is bounded by a total for each resource, so that a longer soak finds a smaller leak: 2 MiB of memory over
2,000 cycles is 1 KiB in each, 1,000 blocks of Python's allocator one object in two cycles. (The gate's trace of 256
decisions takes longer than that to fill.) The bound holds for the whole interval of the slope, not for its middle.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from tests.models import save_tiny_model
from tests.proof import Proof
from tests.soak.growth import PER, Growth, growth, trend
from tests.soak.resources import Held
from tests.soak.rollouts import AUTO_EVERY, Rollouts

pytestmark = pytest.mark.engine


class Tier(NamedTuple):
    """How long a soak is, and what growth is let pass from its warm-up to its end."""

    cycles: int
    let_pass: Held
    steady: float
    """Change of the acceptance rate, up or down."""


FULL = Tier(
    2000,
    Held(memory=2 << 20, blocks=1000, tensors=1, tensor_bytes=512, files=1, threads=1, graphs=1, entries=20),
    0.02,
)
SHORT = Tier(
    60,
    Held(memory=16 << 20, blocks=2000, tensors=1, tensor_bytes=512, files=1, threads=1, graphs=1, entries=500),
    0.2,
)
"""Of every test run. Caches of a bounded size still fill up."""
READINGS, BLOCKS = 60, 20
"""Of what is held, and of acceptance, in a soak."""


@pytest.fixture(scope="module")
def tier(proof: Proof) -> Tier:
    return FULL if proof.full else SHORT


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory, proof: Proof) -> Rollouts:
    model = save_tiny_model(tmp_path_factory.mktemp("model"), hidden=64, layers=1, sharpness=2.0)
    return Rollouts(model, enforce_eager=not proof.full)


def soak(rollouts: Rollouts, cycles: int, leak: Callable[[], Any] = lambda: None) -> tuple[list[int], list[Held]]:
    """So many cycles; what was held after some of them."""
    at, readings = [], []
    for number in range(1, cycles + 1):
        rollouts.cycle()
        leak()
        if number % max(1, cycles // READINGS) == 0:
            at.append(number)
            readings.append(rollouts.held())
    return at, readings


def growths(at: list[int], readings: list[Held]) -> dict[str, Growth]:
    """Of every resource."""
    return {name: growth(at, [getattr(reading, name) for reading in readings]) for name in Held._fields}


def beyond(found: dict[str, Growth], cycles: int, let_pass: Held) -> list[str]:
    """Names of what may grow by more than is let pass over so many cycles."""
    return [name for name, series in found.items() if series.beyond(PER * getattr(let_pass, name) / cycles)]


def test_nothing_grows(rollouts: Rollouts, tier: Tier, proof: Proof) -> None:
    found = growths(*soak(rollouts, tier.cycles))
    for name, series in found.items():
        _row(proof, name, tier.cycles, series, getattr(tier.let_pass, name))
    assert beyond(found, tier.cycles, tier.let_pass) == []
    assert_steady(rollouts, tier, proof)


def assert_steady(rollouts: Rollouts, tier: Tier, proof: Proof) -> None:
    """Acceptance neither rises nor falls over the cycles."""
    each = max(AUTO_EVERY, tier.cycles // BLOCKS)
    for end in range(each, tier.cycles + 1, each):
        drafted, accepted = sum(rollouts.drafted[end - each : end]), sum(rollouts.accepted[end - each : end])
        proof.row("acceptance", after_cycles=end, drafted=drafted, accepted=accepted, rate=round(accepted / drafted, 4))
    counts = zip(rollouts.accepted[: tier.cycles], rollouts.drafted[: tier.cycles], strict=True)
    rates = {cycle: accepted / drafted for cycle, (accepted, drafted) in enumerate(counts, 1) if drafted}
    series = trend(list(rates), list(rates.values()))
    _row(proof, "acceptance", tier.cycles, series, tier.steady)
    most = PER * tier.steady / tier.cycles
    assert -most <= series.low <= series.high <= most


def _row(proof: Proof, name: str, cycles: int, series: Growth, let_pass: float) -> None:
    slopes = {key: float(f"{value:.4g}") for key, value in series._asdict().items() if key not in ("first", "last")}
    bound = PER * let_pass / cycles
    proof.row("soak", resource=name, cycles=cycles, first=series.first, last=series.last, **slopes, bound=bound)


class Leak(NamedTuple):
    """What is kept in every cycle although nobody needs it, and where that must be seen."""

    said: str
    make: Callable[[], Any]
    short: set[str]
    full: set[str]


LEAKS = [
    Leak("a tensor of 1 KiB", lambda: torch.ones(256), {"tensors", "tensor_bytes"}, {"memory"}),
    Leak("a file", lambda: open("/dev/null"), {"files"}, {"blocks"}),  # noqa: SIM115
    pytest.param(Leak("a buffer of 1 KiB", lambda: bytearray(1024), set(), {"memory"}), marks=pytest.mark.full),
]


@pytest.mark.parametrize("leak", LEAKS, ids=["tensor", "file", "buffer"])
def test_a_leak_is_found(rollouts: Rollouts, tier: Tier, proof: Proof, leak: Leak) -> None:
    """By the bounds of the soak above, in a fifth of its cycles."""
    expected = leak.short | leak.full if tier is FULL else leak.short
    kept: list[Any] = []
    found = growths(*soak(rollouts, max(30, tier.cycles // 5), lambda: kept.append(leak.make())))
    for name in sorted(expected):
        bound = PER * getattr(tier.let_pass, name) / tier.cycles
        proof.row("leaks", kept_in_every_cycle=leak.said, resource=name, high=found[name].high, bound=bound)
    assert expected <= set(beyond(found, tier.cycles, tier.let_pass))
