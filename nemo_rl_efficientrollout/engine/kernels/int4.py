"""W4A16: int4 weights per group, with or without zero points."""

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.kernels.linear import choose_mp_linear_kernel
from vllm.model_executor.parameter import GroupQuantScaleParameter, PackedvLLMParameter
from vllm.scalar_type import scalar_types

from ...drafter.formats import Quantized
from ..compat.present import present
from .draft_linear import DraftLinear

_NAMES = ("weight_packed", "weight_scale", "weight_zero_point")


class Int4Linear(DraftLinear):
    """vLLM's mixed-precision kernel of this platform: Machete, Marlin, or the CPU's."""

    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        zero_points = self.format.name == "int4"
        here = (shape[1], shape[0])
        config = present.mixed_precision_config(
            full_weight_shape=here,
            partition_weight_shape=here,
            weight_type=scalar_types.uint4 if zero_points else scalar_types.uint4b8,
            act_type=dtype,
            group_size=block,
            zero_points=zero_points,
        )
        return choose_mp_linear_kernel(config)(config, *_NAMES)

    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        """The layout of compressed-tensors checkpoints, which every such kernel of vLLM's can take."""
        layer: Any = nn.Module()
        layer.weight_packed = _packed(quantized.data, packed_dim=1)
        layer.weight_scale = GroupQuantScaleParameter(
            output_dim=0, input_dim=1, data=quantized.scale.to(dtype), weight_loader=_no_loader
        )
        if quantized.zero is not None:
            layer.weight_zero_point = _packed(quantized.zero, packed_dim=0)
        return layer


def _packed(data: Tensor, packed_dim: int) -> PackedvLLMParameter:
    return PackedvLLMParameter(
        input_dim=1, output_dim=0, packed_dim=packed_dim, packed_factor=8, data=data, weight_loader=_no_loader
    )


def _no_loader(*_: Any) -> None:
    raise AssertionError("the drafter's weights are not loaded from a checkpoint")
