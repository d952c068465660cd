"""Quantized linear layers of the drafter, computed by vLLM's own kernels."""

from types import SimpleNamespace
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
        self._kernel: Any = None
        self._weights = SimpleNamespace()
        self._newest: torch.nn.Module | None = None

    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the twin's layers are built unquantized and filled by refill()")

    def refill(self, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        quantized = int8.quantize(weight)
        packed: Any = torch.nn.Module()
        packed.logical_widths = [weight.shape[0]]
        packed.bias = layer.bias
        packed.weight = torch.nn.Parameter(quantized.data, requires_grad=False)
        packed.weight_scale = torch.nn.Parameter(quantized.scale, requires_grad=False)
        packed.input_scale = packed.input_zero_point = packed.azp_adj = None
        kernel = _new_kernel()
        with set_default_torch_dtype(weight.dtype):  # the kernel's output dtype
            kernel.process_weights_after_loading(packed)
        if self._kernel is None:
            self._kernel = kernel
            # Not a module: each attribute of a module costs a Python call, five per layer and token.
            self._weights = SimpleNamespace(**{name: getattr(packed, name, None) for name in _NAMES})
        else:
            self._overwrite(kernel, packed)
        self._newest = packed  # oneDNN reads the scales from where they were packed

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self._kernel.apply_weights(self._weights, x, bias)

    def tensors(self) -> list[torch.Tensor]:
        """What the kernel reads, at addresses that never change."""
        return [value for value in vars(self._weights).values() if value is not None]

    def _overwrite(self, kernel: Any, packed: torch.nn.Module) -> None:
        """Move the new weights behind the addresses that compiled graphs hold."""
        for name, value in vars(self._weights).items():
            if value is not None:
                value.copy_(getattr(packed, name))
        old, new = (getattr(k, "dnnl_handler", None) for k in (self._kernel, kernel))
        if old is not None and new is not None:
            # oneDNN owns the packed weight behind a pointer: exchange pointers, the old one is freed with `kernel`.
            pointer = old.handler_tensor.clone()
            old.handler_tensor.copy_(new.handler_tensor)
            new.handler_tensor.copy_(pointer)


_NAMES = ("weight", "weight_scale", "input_scale", "input_zero_point", "azp_adj", "bias_fp32")
"""What vLLM's int8 kernels look up on a layer when they are applied."""


def _new_kernel() -> Any:
    return init_int8_linear_kernel(
        is_channelwise=True,
        is_static_input_scheme=False,
        input_symmetric=True,
        module_name="EfficientRollout drafter",
    )
