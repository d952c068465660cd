"""vLLM on CPU samples from garbage at temperature > 0 whenever speculation is on.

`_expand_kernel_impl` (vllm/utils/cpu_triton_utils.py, 0.25.1 to 0.32.0) hands the C++ kernel an int64 *copy* of a
float output, so the expanded temperatures stay uninitialised memory. Remove when that function writes back.
"""

from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

from ...patching import wrap


def install() -> None:
    """Expand per-request sampling parameters in torch, on CPU only."""
    if current_platform.is_cpu():
        wrap(rejection_sampler, "expand_batch_to_tokens", lambda original: expand_batch_to_tokens)


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: Any = 0,
    replace_to: Any = 0,
) -> torch.Tensor:
    """[batch] → [num_tokens]: each request's value once per draft token, `replace_from` replaced on the way.

    Args:
        x: [batch] any dtype.
        cu_num_tokens: [batch] running total of draft tokens.
        num_tokens: the last entry of `cu_num_tokens`.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    values = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    return torch.repeat_interleave(values, counts, output_size=num_tokens)
