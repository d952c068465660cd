"""What a plan has to assume, because nothing was measured: ranges, each with its reason.

A range holds nine cases in ten: its ends are the 5 % and 95 % quantiles of a log-normal distribution. Names ending with
`_us` are microseconds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import ndtri

from ..errors import UserError
from ..gate.terms import Vector

CONFIDENCE = 0.9
_TAIL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_PAPER = "arXiv 2606.18967"


@dataclass(frozen=True, slots=True)
class Range:
    """A positive number that is not known."""

    low: float
    high: float
    reason: str

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high < math.inf:
            raise UserError(f"a range from {self.low:g} to {self.high:g}: expected two positive numbers, ascending")

    def at(self, z: float) -> float:
        """The value `z` standard deviations above the middle."""
        middle, half = math.log(self.low * self.high) / 2, math.log(self.high / self.low) / 2
        return math.exp(middle + z * half / _TAIL)


MACHINE = {
    "bandwidth": Range(0.70, 0.90, f"of the data sheet's; fitted on A100s: 0.77 to 0.79 ({_PAPER} §4.2)"),
    "flops": Range(0.55, 0.80, f"of the data sheet's; GEMMs on an A100: 0.75 ({_PAPER} §4.2)"),
    "kv": Range(0.8, 1.8, "time of reading the KV cache over that of as many weight bytes: a guess"),
    "kernel_4bit": Range(1.1, 1.9, f"drafter's GEMM time over its bytes': A100 1.3 to 1.4 ({_PAPER}), H100 1.6"),
    "kernel_8bit": Range(1.0, 1.5, "the same with 8 bits: H100 1.3 (third party)"),
    "target_layer_us": Range(
        8, 140, f"a target step beyond its GEMMs and KV, per layer; engine times of {_PAPER}: 28 to 104"
    ),
    "draft_layer_us": Range(
        10, 200, f"the same of a drafter step: savings measured in {_PAPER} imply 102 to 173, one CUDA graph far less"
    ),
    "request": Range(0.15, 1.0, f"host time per request and pass, over what {_PAPER} fitted: ours was not measured"),
    "all_reduce_us": Range(20, 50, f"latency of an all-reduce over NVLink; {_PAPER}: 36 on A100s"),
    "requantize_reads": Range(
        5, 140, f"making the drafter, over reading the policy once; {_PAPER}: 137, on CPUs 6 to 12"
    ),
    "training": Range(0.25, 0.60, "model FLOP/s of training and log-probabilities over the data sheet's: a guess"),
    "refit_bytes_per_s": Range(5e9, 50e9, "sending the policy's weights to the engine, per GPU: a guess"),
}
"""By name."""
REQUEST_US = {"plain": 75.0, "draft": 150.0, "verify": 230.0}
"""What the paper fitted at most for one request in one pass: its host path."""

_W4 = f"W4 in {_PAPER}: 0.018 to 0.042"
REJECTED = {
    "int4": Range(0.015, 0.06, f"{_W4}, below 0.06 at other loads"),
    "int4_symmetric": Range(0.018, 0.08, f"{_W4}; a third more without zero points, measured on a tiny model"),
    "int8": Range(0.002, 0.015, f"W8 in {_PAPER} §B.3: about 0.01"),
    "fp8": Range(0.004, 0.03, "between int8 and int4, as measured on a tiny model"),
    "fp8_block": Range(0.004, 0.03, "between int8 and int4, as measured on a tiny model"),
}
"""1 - α by format. What this project measured is of a model of 0.6 M parameters (README): no range is from it alone."""


def draws(count: int, measured: int, seed: int) -> tuple[list[dict[str, float]], Vector]:
    """Standard normal numbers of each draw, spread evenly (Latin hypercube): one for every assumption, and for α.

    Args:
        count: draws.
        measured: numbers that a measured cost model wants besides; they are the second part, shape [count, measured].
        seed: of the chance.
    """
    names = [*MACHINE, "rejected"]
    chance, shape = np.random.default_rng(seed), (count, len(names) + measured)
    order = chance.permuted(np.tile(np.arange(count)[:, None], shape[1]), axis=0)
    normal = ndtri((order + chance.uniform(0.0, 1.0, shape)) / count)
    return [dict(zip(names, row, strict=False)) for row in normal.tolist()], normal[:, len(names) :]


def rejected(given: Mapping[str, Range], form: str) -> Range:
    """1 - α of a format: as given for it, as given for all, or as assumed."""
    return given.get(form) or given.get("") or REJECTED[form]
