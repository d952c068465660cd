"""Sweeps of machines and models that were never measured, as unlike a cost model as the one that was.

The true times are those of the published constants (of a model, on its GPU or on a faster one) times what the measured
sweep shows beside the same model: its whole field of residuals, moved along B and S, each kind's by a factor of its
own, plus a smooth field that is drawn anew, and the spread of medians. So every made-up sweep has the sizes and shapes
of the real one's misfit: padding of graphs, tiles, kernels of attention, and the dozen rows, times of fewer requests
than their label says, that are off by 10 to 60 %. More of those would leave the published fit a larger regret than is
published of it, as a wrong time is wrong for the judge, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nemo_rl_efficientrollout.gate.model_constants import ModelConstants
from nemo_rl_efficientrollout.gate.timing import Timing
from nemo_rl_efficientrollout.simulate.roofline import A100_FLOPS, Roofline

from .published_gate import A100_BANDWIDTH
from .published_models import MODELS

Array = NDArray[np.float64]
Key = tuple[str, int]
"""Kind and γ."""

FASTER_BANDWIDTH, FASTER_FLOPS = 1.64, 2.6
"""An H100's over an A100's: peak bytes per second, and what GEMMs reach."""
SMOOTH = 0.03
"""Standard deviation of the smooth field: of the logarithm of a time."""
SPREAD = 0.005
"""Of the logarithm of a median, from run to run."""


@dataclass(frozen=True)
class MadeUp:
    """One sweep and what the published fit is told beside it."""

    name: str
    timings: list[Timing]
    constants: ModelConstants
    bandwidth: float
    """Peak, bytes per second."""
    flops: float


def made_up(measured: Sequence[Timing], count: int, seed: int = 0) -> list[MadeUp]:
    """`count` sweeps on the grid of `measured`, which is of the first published model on an A100."""
    chance = np.random.default_rng(seed)
    residuals = _residuals(measured, MODELS[0].roofline)
    return [_one(measured, residuals, index, chance) for index in range(count)]


def _one(measured: Sequence[Timing], residuals: dict[Key, Array], index: int, chance: np.random.Generator) -> MadeUp:
    model, faster = MODELS[index % len(MODELS)], index // len(MODELS) % 2 == 1
    speed = (FASTER_BANDWIDTH, FASTER_FLOPS) if faster else (1.0, 1.0)
    host = chance.uniform(0.6, 0.9) if faster else 1.0
    truth = replace(
        model.roofline,
        bandwidth=speed[0] * model.roofline.bandwidth * chance.uniform(0.95, 1.05),
        flops=speed[1] * A100_FLOPS,
        eta=model.roofline.eta * chance.uniform(0.95, 1.05),
        c_target=host * model.roofline.c_target,
        c_draft=host * model.roofline.c_draft,
        c_verify=host * model.roofline.c_verify,
    )
    shift = tuple(int(x) for x in chance.integers(-1, 2, 2))
    factors = {kind: chance.uniform(0.8, 1.2) for kind in ("plain", "draft", "verify")}
    batches, contexts = _axes(measured)
    shape = len(batches), len(contexts)
    common = _smooth(chance, shape)
    fields = {
        # A drafter's graphs are padded at the same B on any machine.
        key: factors[key[0]] * _moved(field, (0, shift[1]) if key[0] == "draft" else shift)
        + SMOOTH * (common + _smooth(chance, shape)) / np.sqrt(2.0)
        for key, field in residuals.items()
    }
    timings = []
    for timing in measured:
        field = fields[timing.kind, timing.draft_length][batches[timing.batch], contexts[timing.context]]
        if np.isfinite(field):
            error = chance.normal(0.0, SPREAD)
            timings.append(replace(timing, seconds=_seconds(truth, timing) * float(np.exp(field + error))))
    name = f"{model.name} on {'H100-like' if faster else 'A100'}, B {shift[0]:+d}, S {shift[1]:+d}"
    return MadeUp(name, timings, model.architecture, speed[0] * A100_BANDWIDTH, speed[1] * A100_FLOPS)


def _residuals(measured: Sequence[Timing], model: Roofline) -> dict[Key, Array]:
    """Logarithm of measured over modelled times by kind and γ; shape [batches, contexts], NaN where there is no row."""
    batches, contexts = _axes(measured)
    fields: dict[Key, Array] = {}
    for timing in measured:
        key = timing.kind, timing.draft_length
        field = fields.setdefault(key, np.full((len(batches), len(contexts)), np.nan))
        field[batches[timing.batch], contexts[timing.context]] = np.log(timing.seconds / _seconds(model, timing))
    return fields


def _seconds(model: Roofline, timing: Timing) -> float:
    batch, context, length = (np.array(float(x)) for x in (timing.batch, timing.context, timing.draft_length))
    if timing.kind == "plain":
        return float(model.plain(batch, context))
    return float(model.draft(batch, context) if timing.kind == "draft" else model.verify(batch, context, length))


def _axes(measured: Sequence[Timing]) -> tuple[dict[int, int], dict[float, int]]:
    """Position of every B and S on the grid."""
    batches, contexts = sorted({t.batch for t in measured}), sorted({t.context for t in measured})
    return {b: i for i, b in enumerate(batches)}, {s: i for i, s in enumerate(contexts)}


def _moved(field: Array, shift: tuple[int, ...]) -> Array:
    """The field moved by so many points of the grid; what moves in is its edge."""
    where = [np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(field.shape, shift, strict=True)]
    return field[np.ix_(*where)]


def _smooth(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    """A field of mean 0 and variance 1, smooth over about two points of the grid."""
    roots = []
    for size in shape:
        at = np.arange(size)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * ((at[:, None] - at) / 2.0) ** 2))
        roots.append(vectors * np.sqrt(np.maximum(values, 0.0)))
    return roots[0] @ chance.normal(size=shape) @ roots[1].T
