"""fp8_block through Transformer Engine's own quantizer, where it is installed and the GPU is a Hopper.

Only this format: its other quantizers have one scale per tensor, or powers of two. From Blackwell on it refuses scales
that are no powers of two.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ...errors import UnsupportedError
from .format import Quantized
from .fp8 import SIDE, Fp8Block

HOPPER, BLACKWELL = (9, 0), (10, 0)


def why_not(device: torch.device) -> str | None:
    """Why Transformer Engine cannot quantize on `device`, in one line; None if it can."""
    # The GPU first: without one, importing Transformer Engine fails.
    if device.type != "cuda":
        return "no GPU"
    capability = torch.cuda.get_device_capability(device)
    if not HOPPER <= capability < BLACKWELL:
        return f"compute capability is {capability[0]}.{capability[1]}, not 9.x"
    if find_spec("transformer_engine") is None:
        return "transformer_engine is not installed"
    try:
        te = import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError) as error:  # built for another torch, a library it misses
        return f"transformer_engine does not load: {str(error).strip().partition(chr(10))[0]}"
    return None if hasattr(te, "Float8BlockQuantizer") else "transformer_engine has no Float8BlockQuantizer: too old"


@cache
def is_proven(device: torch.device) -> bool:
    """Whether it can quantize on `device` and gives the specification's bits; tried once, on two blocks."""
    if why_not(device) is not None:
        return False
    sample = torch.linspace(-3.0, 3.0, 2 * SIDE * SIDE, device=device).view(SIDE, 2 * SIDE).bfloat16()
    try:
        own = quantize_fp8_block(sample)
    except (AttributeError, KeyError, TypeError, RuntimeError):  # a version whose interface is another
        return False
    expected = Fp8Block().quantize(sample)
    same_codes = torch.equal(own.data.view(torch.uint8), expected.data.view(torch.uint8))
    return same_codes and torch.equal(own.scale, expected.scale)


def quantize_fp8_block(weight: Tensor) -> Quantized:
    """Codes and scales as `Fp8Block.quantize` has them.

    Args:
        weight: [N, K], BF16, FP16 or FP32, on a GPU.

    Raises:
        UnsupportedError: `why_not` says why.
    """
    reason = why_not(weight.device)
    if reason is not None:
        raise UnsupportedError(f"Transformer Engine cannot quantize here ({reason}); use the format 'fp8_block' itself")
    te, binding = import_module("transformer_engine.pytorch"), import_module("transformer_engine_torch")
    quantizer = te.Float8BlockQuantizer(
        binding.DType.kFloat8E4M3,
        rowwise=True,
        columnwise=False,
        amax_epsilon=0.0,
        force_pow_2_scales=False,
        block_scaling_dim=2,
    )
    with torch.no_grad():
        parts = quantizer(weight.detach().contiguous()).get_metadata()
    across = -(-weight.shape[1] // SIDE)  # its scales are padded to a multiple of four
    return Quantized(
        parts["rowwise_data"].view(torch.float8_e4m3fn), parts["rowwise_scale_inv"][:, :across].contiguous()
    )
