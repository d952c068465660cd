"""Whether policy and drafter fit into the GPU, and what they leave for the KV cache."""

from pathlib import Path

from ..drafter.shapes import model_shape
from ..drafter.size import drafter_size, policy_size
from ..errors import UnsupportedError
from ..files import read_json
from .finding import Finding
from .gpu import GIB, Gpu
from .job import Job

NAME = "memory"
LEAST_LEFT_FOR_CACHE = 0.25
"""Of vLLM's share: with less, few requests run at once, and rollouts take longer whatever is drafted."""


def memory_finding(job: Job, gpus: list[Gpu] | None) -> Finding:
    """Bytes on one GPU of the policy and its drafter against vLLM's share of the smallest GPU.

    Raises:
        UserError: the model's folder has no config.json that can be read, or the GPUs do not divide the model.
    """
    if job.model is None:
        return Finding(NAME, "not checked", "no model folder", "give one with --model")
    try:
        policy, drafter = _sizes(job, job.model)
    except UnsupportedError as error:
        return Finding(NAME, "not checked", str(error))
    except (ImportError, OSError) as error:  # formats are torch; the workers have one, the driver need not
        return Finding(NAME, "not checked", f"torch does not load here: {error}", "run this where torch is")
    form = job.settings.drafter.format
    parts = f"policy {policy / GIB:.2f} GiB, {form} drafter {drafter / GIB:.2f} GiB"
    if not gpus:
        return Finding(NAME, "not checked", f"{parts}; no GPU to compare with")
    room = min(gpu.memory_bytes for gpu in gpus) * job.gpu_memory_utilization
    left = room - policy - drafter
    line = f"{parts}, {left / GIB:.1f} of {room / GIB:.1f} GiB left for the KV cache ({left / room:.0%})"
    if left <= 0:
        return Finding(NAME, "fail", line, "raise gpu_memory_utilization or tensor_parallel_size, or use int4")
    if left < LEAST_LEFT_FOR_CACHE * room:
        advice = f"below {LEAST_LEFT_FOR_CACHE:.0%}, few requests run at once: use int4, or more GPUs per engine"
        return Finding(NAME, "warn", line, advice)
    return Finding(NAME, "ok", line)


def _sizes(job: Job, model: Path) -> tuple[int, int]:
    """Bytes on one GPU of the policy, and of its drafter."""
    shape = model_shape(read_json(model / "config.json", "give the folder of a model"), job.tensor_parallel)
    policy = sum(policy_size(shape).values())
    if job.settings.drafter.simulate:
        return policy, policy  # dequantized weights
    from ..drafter.formats import format_named  # torch: seconds

    drafter = drafter_size(shape, format_named(job.settings.drafter.format))
    return policy, drafter.total if job.settings.drafter.lm_head else drafter.without_lm_head
