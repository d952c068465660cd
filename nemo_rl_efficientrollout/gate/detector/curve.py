"""GEMM seconds of one decode step against its rows."""

from collections.abc import Sequence

import torch

from .kernel import GemmKernel
from .shapes import LayerShape
from .timing import Budget, seconds_per_call

CACHES = 2
"""Weights of one measurement in last-level caches: read in turn, each is gone by the time it is read again."""
MOST_COPIES = 128
"""Calls queued at once: a GPU's launch queue takes about a thousand kernels, and a call has a few."""

Curve = tuple[tuple[int, float], ...]
"""(rows M, seconds), M ascending."""


def row_counts(max_rows: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, …: powers of two and the points between them, up to and with `max_rows`."""
    powers = [1 << exponent for exponent in range(max_rows.bit_length())]
    between = [3 * power for power in powers]
    return sorted({rows for rows in powers + between if rows <= max_rows} | {max_rows})


def copies(layer: LayerShape, layers: Sequence[LayerShape], cache_bytes: int) -> int:
    """Weights of this shape that are read in turn, so that none is found in the cache.

    They need not outweigh the model: what a cache holds of a small model, it holds in every step.
    """
    model = sum(other.count * other.weights for other in layers)
    # One byte per weight, the fewest of any precision.
    return min(max(1, -(-min(CACHES * cache_bytes, model) // layer.weights)), MOST_COPIES)


def gemm_curve(
    kernel: GemmKernel,
    layers: Sequence[LayerShape],
    rows: Sequence[int],
    device: torch.device,
    cache_bytes: int,
    budget: Budget,
) -> Curve:
    """Seconds at each of `rows`, summed over `layers`, each as often as it occurs."""
    totals = [0.0] * len(rows)
    for layer in layers:
        times = _layer_seconds(kernel, layer, copies(layer, layers, cache_bytes), rows, device, budget)
        totals = [total + layer.count * seconds for total, seconds in zip(totals, times, strict=True)]
    return tuple(zip(rows, totals, strict=True))


def _layer_seconds(
    kernel: GemmKernel, layer: LayerShape, number: int, rows: Sequence[int], device: torch.device, budget: Budget
) -> list[float]:
    gemms = [kernel.prepare(layer.out_features, layer.in_features, device) for _ in range(number)]
    return [seconds_per_call([gemm(count) for gemm in gemms], device, budget.share()) for count in rows]
