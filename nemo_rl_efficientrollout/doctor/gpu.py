"""The GPUs that torch sees where vLLM runs."""

from dataclasses import dataclass
from typing import Any

from .environments import Environment
from .finding import Finding
from .interpreter import Replies, Reply

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    lacks_fp8: str | None
    """Why it multiplies no FP8, or None."""

    def __str__(self) -> str:
        capability = ".".join(map(str, self.capability))
        fp8 = "FP8" if self.lacks_fp8 is None else f"no FP8 ({self.lacks_fp8})"
        return f"{self.name}, {self.memory_bytes / GIB:.0f} GiB, compute capability {capability}, {fp8}"


def gpus_of(environments: list[tuple[Environment, Replies]]) -> list[Gpu]:
    """The GPUs of this machine, as the first needed environment sees them that can say."""
    for environment, replies in environments:
        found: dict[str, Any] | None = replies.get("device", Reply()).answer
        if environment.needed and found is not None:
            return [Gpu(**{**gpu, "capability": tuple(gpu["capability"])}) for gpu in found["gpus"]]
    return []


def gpu_finding(gpus: list[Gpu], driver: Finding) -> Finding:
    """What there is.

    Args:
        driver: the finding on the GPU driver, which knows of GPUs that torch does not see.
    """
    if not gpus and driver.verdict == "ok":
        line = f"driver {driver.found} is there, but torch sees no GPU"
        return Finding("GPU", "fail", line, "look at CUDA_VISIBLE_DEVICES, and at the CUDA that torch was built for")
    if not gpus:
        return Finding("GPU", "warn", "none: CPU only", "training with NeMo-RL needs GPUs")
    kinds = {str(gpu): sum(str(other) == str(gpu) for other in gpus) for gpu in gpus}
    line = "; ".join(f"{count} × {kind}" for kind, count in kinds.items())
    if len(kinds) > 1:
        return Finding("GPU", "warn", line, "the gate takes all GPUs of an engine for equal: use one kind")
    return Finding("GPU", "ok", line)
