"""Memory bandwidth that a reader of weights gets."""

import torch

from .timing import seconds_per_call

CACHES = 4
"""Buffer size in last-level caches: a pass over it leaves nothing that the next one could find."""
SMALLEST = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes: a pass takes a tenth of a millisecond or more."""
LARGEST = 4 << 30


def buffer_bytes(device: torch.device, cache_bytes: int) -> int:
    """Bytes that `read_bandwidth` allocates."""
    return min(max(CACHES * cache_bytes, SMALLEST[device.type]), LARGEST)


def read_bandwidth(device: torch.device, cache_bytes: int, budget_s: float) -> float:
    """Bytes per second of summing a large buffer of float64: its size over the seconds of one pass.

    Reading only, as decoding reads weights: a copy would count bytes written, too. Sums of float64 come closest to
    the memory's limit on a CPU, where those of float32 wait for the additions; GPUs sum float32, as many have next to
    no float64 units.
    """
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    buffer = torch.ones(buffer_bytes(device, cache_bytes) // dtype.itemsize, dtype=dtype, device=device)
    return buffer.nbytes / seconds_per_call([buffer.sum], device, budget_s)
