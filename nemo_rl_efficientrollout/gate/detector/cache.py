"""How much the last-level cache holds: what is timed must be larger, or the cache is timed."""

import os
from pathlib import Path

import torch

UNKNOWN = 64 << 20
"""Bytes assumed where the system does not tell."""
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache_bytes(device: torch.device) -> int:
    """Bytes of a GPU's L2, or of all last-level caches of the CPUs that this process may run on."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    return _cpu_bytes(Path("/sys/devices/system/cpu")) or UNKNOWN


def _cpu_bytes(root: Path) -> int:
    """Sum over distinct caches of the highest level; 0 where `root` (sysfs of Linux) does not list them."""
    if not root.is_dir():
        return 0
    caches: dict[str, tuple[int, int]] = {}
    for cpu in os.sched_getaffinity(0):
        for index in root.glob(f"cpu{cpu}/cache/index[0-9]*"):
            shared, level, size = (
                (index / name).read_text().strip() if (index / name).is_file() else ""
                for name in ("shared_cpu_list", "level", "size")
            )
            if shared and level and size:
                caches[f"{level}:{shared}"] = (int(level), int(size.rstrip("KMG")) * _UNITS.get(size[-1], 1))
    highest = max((level for level, _ in caches.values()), default=0)
    return sum(size for level, size in caches.values() if level == highest)
