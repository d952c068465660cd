"""The whole probe: choose kernels, measure, fit."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...errors import UserError
from .bandwidth import buffer_bytes, read_bandwidth
from .cache import last_level_cache_bytes
from .choice import KERNELS, Tried, choose, explain
from .curve import Curve, copies, gemm_curve, row_counts
from .device import find_device, guest_on, hardware_name
from .kernel import GemmKernel
from .ridge import fit_ridge
from .shapes import LayerShape
from .timing import Budget

BUDGET_S = 5.0


@dataclass(frozen=True, slots=True)
class Detection:
    """What was measured. GEMM times are those of one decode step: summed over all layers of the model."""

    device: str
    """`cpu`, `cuda:0`, …"""
    hardware: str
    """Name of the GPU, or architecture and threads of the CPU."""
    choice: str
    """The most preferred kernel that was measured, and why none before it."""
    bandwidth_bytes_per_s: float
    """Of reading memory."""
    kernels: tuple[Tried, ...]
    curves: dict[str, Curve]
    """By precision: (rows M, seconds), M ascending."""
    ridge_rows: dict[str, float | None]
    """By precision: M at which weights stop being free (`Ridge.rows`); None if above the largest M measured."""

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys; a curve is a list of `{"rows": M, "seconds": s}`."""
        curves = {
            precision: [{"rows": rows, "seconds": seconds} for rows, seconds in curve]
            for precision, curve in self.curves.items()
        }
        return asdict(self) | {"kernels": [asdict(tried) for tried in self.kernels], "curves": curves}


def detect(
    layers: Sequence[LayerShape],
    max_rows: int,
    device: str | None = None,
    budget_s: float = BUDGET_S,
    kernels: Sequence[GemmKernel] = KERNELS,
) -> Detection:
    """Measure bandwidth, and GEMM time against rows in every precision that this machine has kernels for.

    Args:
        layers: weight matrices of the model that are on this device.
        max_rows: largest M, e.g. the most requests decoded at once times γ + 1.
        device: `cpu`, `cuda` or `cuda:N`; by default the current GPU, the CPU if there is none.
        budget_s: seconds to spend. Less of it means fewer repeats, never fewer points: each is measured once at
            least, so a large model on a small machine takes longer.
        kernels: in order of preference.

    Raises:
        UserError: there is nothing to measure, no such device, no kernel for it, or too little GPU memory free.

    No tensor outlives the call, and torch's random numbers go on as if it had not been. Workspaces of cuBLAS stay:
    they belong to the process.
    """
    _check_arguments(layers, max_rows, budget_s)
    target = find_device(device)
    chosen, tried = choose(kernels, target)
    if not chosen:
        raise UserError(f"no GEMM kernel for {target}: {explain(tried)}")
    cache_bytes = last_level_cache_bytes(target)
    _check_memory(layers, max_rows, cache_bytes, target)
    rows = row_counts(max_rows)
    budget = Budget(budget_s, 1 + len(chosen) * len(layers) * len(rows))
    with guest_on(target):
        bandwidth = read_bandwidth(target, cache_bytes, budget.share())
        curves = {one.precision: gemm_curve(one, layers, rows, target, cache_bytes, budget) for one in chosen}
    return Detection(
        device=str(target),
        hardware=hardware_name(target),
        choice=explain(tried),
        bandwidth_bytes_per_s=bandwidth,
        kernels=tried,
        curves=curves,
        ridge_rows={precision: fit_ridge(curve).rows for precision, curve in curves.items()},
    )


def _check_arguments(layers: Sequence[LayerShape], max_rows: int, budget_s: float) -> None:
    if not layers:
        raise UserError("there are no layers to measure: give at least one LayerShape")
    if isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:
        raise UserError(f"max_rows is {max_rows!r}, expected a whole number of at least 1")
    if not 0 < budget_s < math.inf:
        raise UserError(f"budget_s is {budget_s!r}, expected a number of seconds above 0")


def _check_memory(layers: Sequence[LayerShape], max_rows: int, cache_bytes: int, device: torch.device) -> None:
    """Refuse before an engine beside this probe runs out of memory."""
    if device.type != "cuda":
        return
    # BF16: all copies of one layer, three more while one is quantized; activations and what they turn into.
    gemms = max(
        2 * (number + 3) * layer.weights + 4 * (number + 3) * max_rows * (layer.in_features + layer.out_features)
        for layer in layers
        for number in [copies(layer, layers, cache_bytes)]
    )
    needed = max(gemms, buffer_bytes(device, cache_bytes))
    free = torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise UserError(f"{device} has {free / 2**30:.1f} GiB free, and the probe needs {needed / 2**30:.1f} GiB")
