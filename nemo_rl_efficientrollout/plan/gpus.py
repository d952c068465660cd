"""What data sheets say of GPUs. Nothing here was measured; what is achieved of it is assumed, see `assumptions`."""

from dataclasses import dataclass

from ..errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a server with NVLink; rates are peaks without structured sparsity."""

    name: str
    title: str
    capability: float
    """CUDA compute capability."""
    bf16_flops: float
    """Per second."""
    fp8_flops: float
    """0 where there is no FP8 unit."""
    int8_flops: float
    bytes_per_s: float
    """Of its memory."""
    memory_bytes: float
    source: str

    def flops(self, form: str) -> float:
        """Peak of the GEMMs of a drafter in this format; those that unpack weights compute in BF16."""
        if form in ("fp8", "fp8_block"):
            return self.fp8_flops or self.bf16_flops
        return self.int8_flops if form == "int8" else self.bf16_flops


_SITE = "https://www.nvidia.com/en-us/data-center"
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", "A100 SXM 80 GB", 8.0, 312e12, 0.0, 624e12, 2.039e12, 80e9, f"{_SITE}/a100/"),
        Gpu("h100", "H100 SXM 80 GB", 9.0, 989e12, 1979e12, 1979e12, 3.35e12, 80e9, f"{_SITE}/h100/"),
        Gpu("h200", "H200 SXM 141 GB", 9.0, 989e12, 1979e12, 1979e12, 4.8e12, 141e9, f"{_SITE}/h200/"),
        # An eighth of a DGX B200: 1,440 GB, 64 TB/s, 72 PFLOP/s of sparse FP8.
        Gpu("b200", "B200 SXM 180 GB", 10.0, 2250e12, 4500e12, 4500e12, 8.0e12, 180e9, f"{_SITE}/dgx-b200/"),
    )
}

KERNELS = {"int4": (7.5, 99.0), "int4_symmetric": (7.5, 99.0), "int8": (7.5, 9.0), "fp8": (8.0, 99.0)}
KERNELS |= {"fp8_block": (8.9, 99.0)}
"""By format: least and greatest compute capability for which vLLM has a kernel, as `Format.hardware` says."""


def gpu_named(name: str) -> Gpu:
    """The GPU of that name. Raises UserError: unknown, with the nearest one named."""
    found = GPUS.get(name.lower())
    if found is None:
        raise UserError(f"unknown GPU '{name}'{nearest(name.lower(), GPUS)}; known: {', '.join(GPUS)}")
    return found


def missing_kernel(gpu: Gpu, form: str) -> str | None:
    """Why there is no kernel for this format on this GPU; None if there is one."""
    least, most = KERNELS[form]
    if least <= gpu.capability <= most:
        return None
    reach = f"from {least}" if gpu.capability < least else f"up to {most}"
    return f"vLLM has kernels for {form} on compute capabilities {reach}, {gpu.name} has {gpu.capability}"
