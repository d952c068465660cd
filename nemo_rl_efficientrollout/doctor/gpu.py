"""The GPU driver, and the GPUs that torch sees where vLLM runs."""

import subprocess
from dataclasses import dataclass

from .environments import Environment
from .finding import Finding
from .interpreter import Replies

GIB = 2**30
DRIVER = "GPU driver"
SECONDS = 60.0
"""For nvidia-smi, which loads the driver where no process has it open."""


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


def gpus_of(environments: list[tuple[Environment, Replies]]) -> list[Gpu] | None:
    """The GPUs of this machine, as the first needed environment sees them that can say; None if none can."""
    for environment, replies in environments:
        found = replies["device"].answer
        if environment.needed and found is not None:
            reasons, error = replies["lacks_fp8"]
            return [
                Gpu(gpu["name"], gpu["memory_bytes"], tuple(gpu["capability"]), error or reasons[index])
                for index, gpu in enumerate(found["gpus"])
            ]
    return None


def driver_finding() -> Finding:
    """The GPU driver's version, by nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except OSError:
        return Finding(DRIVER, "not checked", "there is no nvidia-smi")
    except subprocess.TimeoutExpired:
        return Finding(DRIVER, "fail", f"nvidia-smi gave no answer within {SECONDS:.0f} s", "reset the node")
    lines = done.stdout.split("\n")
    if done.returncode or not lines[0].strip():
        why = (done.stderr or done.stdout).strip().partition("\n")[0]
        return Finding(DRIVER, "fail", f"nvidia-smi: {why or f'exit code {done.returncode}'}", "mend the driver")
    return Finding(DRIVER, "ok", lines[0].strip())


def gpu_finding(gpus: list[Gpu] | None, driver: Finding) -> Finding:
    """What there is.

    Args:
        driver: the finding on the GPU driver, which knows of GPUs that torch does not see.
    """
    if gpus is None:
        return Finding("GPU", "not checked", "no environment that runs vLLM has a torch that loads", "see below")
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
