"""Quantized linear layers of the drafter, computed by vLLM's own kernels."""

from typing import Any, Protocol

import torch
from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.utils.torch_utils import set_default_torch_dtype

from ..drafter.formats import int8


class DraftLinear(Protocol):
    """A linear method whose weights can be replaced in place."""

    def refill(self, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        """Quantize `weight` ([N, K], the policy's) into `layer`; the first call allocates, later ones overwrite."""
        ...


class Int8Linear(LinearMethodBase):
    """W8A8: int8 weights per channel, activations per token, through vLLM's int8 kernel of this platform."""

    def __init__(self) -> None:
        self._kernel = _new_kernel()
        self._packed: torch.nn.Module | None = None  # the kernel keeps pointers into these tensors

    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the twin's layers are built unquantized and filled by refill()")

    def refill(self, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        quantized = int8.quantize(weight)
        packed = torch.nn.Module()
        packed.logical_widths = [weight.shape[0]]  # type: ignore[assignment]
        packed.bias = None  # type: ignore[assignment]  # handed over at each call instead
        for name, value in (("weight", quantized.data), ("weight_scale", quantized.scale)):
            packed.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
        packed.input_scale = packed.input_zero_point = packed.azp_adj = None  # type: ignore[assignment]
        kernel = _new_kernel()
        with set_default_torch_dtype(weight.dtype):  # the kernel's output dtype
            kernel.process_weights_after_loading(packed)
        if self._packed is None:
            self._kernel, self._packed = kernel, packed
        else:
            self._overwrite(kernel, packed)

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        assert self._packed is not None
        return self._kernel.apply_weights(self._packed, x, bias)

    def _overwrite(self, kernel: Any, packed: torch.nn.Module) -> None:
        """Move the new weights behind the addresses that compiled graphs hold."""
        assert self._packed is not None
        ours = dict(self._packed.named_parameters())
        for name, value in packed.named_parameters():
            ours[name].copy_(value)
        old, new = (getattr(k, "dnnl_handler", None) for k in (self._kernel, kernel))
        if old is not None and new is not None:
            # oneDNN owns the packed weight behind a pointer: exchange pointers, the old one is freed with `kernel`.
            pointer = old.handler_tensor.clone()
            old.handler_tensor.copy_(new.handler_tensor)
            new.handler_tensor.copy_(pointer)
            self._scales_of_handler = packed  # oneDNN reads the scales from where they were packed


def _new_kernel() -> Any:
    return init_int8_linear_kernel(
        is_channelwise=True,
        is_static_input_scheme=False,
        input_symmetric=True,
        module_name="EfficientRollout drafter",
    )
