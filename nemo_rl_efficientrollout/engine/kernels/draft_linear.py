"""What all linear layers of the drafter have in common: weights that are replaced in place."""

from abc import abstractmethod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.utils.torch_utils import set_default_torch_dtype

from ...drafter.formats import Format, Quantized
from ...drafter.fused import pack, quantize_packed
from ...errors import UnsupportedError


class DraftLinear(LinearMethodBase):
    """Quantized weights in a kernel of vLLM's. Subclasses say which kernel, and how it wants them laid out."""

    def __init__(self, form: Format, layer: nn.Module) -> None:
        self.format = form
        self.layer = layer
        self._kernel: Any = None
        self._weights = SimpleNamespace()

    @abstractmethod
    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        """A scratch layer with the parameters that the kernel's `process_weights_after_loading` wants.

        Args:
            quantized: of a weight [N, K], four-bit codes and zero points packed.
            dtype: of activations and output.
        """

    @abstractmethod
    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        """vLLM's kernel for a weight [N, K] of this rank. Raises ValueError where this platform has none."""

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the twin's layers are built unquantized and filled later")

    def refill(self, source: Any) -> Tensor:
        """Quantize the weight of the policy's layer `source`; the first call allocates, later ones overwrite.

        Returns: whether all weights were finite numbers, a scalar on the weight's device that need not be read now.
        """
        return self._install(self.quantize(source.weight), source.weight)

    def fill(self, matrices: list[Quantized], source: Any) -> Tensor:
        """Put in the one weight of `source`, quantized already; the first call allocates, later ones overwrite.

        Raises:
            UnsupportedError: this platform has no kernel for the format.
        """
        (quantized,) = matrices
        return self._install(self.pack(quantized), source.weight)

    def quantize(self, weight: Tensor) -> Quantized:
        """`weight` as `lay_out` takes it."""
        return quantize_packed(self.format, weight)

    def pack(self, quantized: Quantized) -> Quantized:
        """A weight as its format specifies it, as `lay_out` takes it."""
        return pack(self.format, quantized)

    def _install(self, quantized: Quantized, weight: Tensor) -> Tensor:
        (rows, columns), dtype = weight.shape, weight.dtype
        try:
            with set_default_torch_dtype(dtype):  # the kernel's output type
                kernel = self.new_kernel((rows, columns), self.format.block(columns).columns, dtype)
                packed: Any = self.lay_out(quantized, dtype)
                bias = self.layer._parameters.get("bias")  # a copy: some kernels permute it
                packed.bias = None if bias is None else _frozen(bias.detach().clone())
                kernel.process_weights_after_loading(packed)
        except ValueError as error:
            raise UnsupportedError(
                f"format '{self.format.name}' has no kernel here ({_first_line(error)}): it runs on"
                f" {self.format.hardware}"
            ) from error
        if self._kernel is None:
            self._kernel = kernel
            # Not a module: each attribute of a module costs a Python call, five per layer and token.
            self._weights = SimpleNamespace(**_attributes(packed))
        else:
            self.overwrite(kernel, packed)
        return torch.isfinite(quantized.scale).all()

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._kernel.apply_weights(self._weights, x, None if bias is None else self._weights.bias)

    def tensors(self) -> list[Tensor]:
        """What the kernel reads, at addresses that never change."""
        return [value for value in vars(self._weights).values() if isinstance(value, Tensor)]

    def rehouse(self) -> None:
        """Move the weights to memory that is allocated now."""
        for name, value in vars(self._weights).items():
            if isinstance(value, Tensor):
                setattr(self._weights, name, value.clone())

    def overwrite(self, kernel: Any, packed: nn.Module) -> None:
        """Move the new weights behind the addresses that compiled and captured graphs hold."""
        new = _attributes(packed)
        for name, value in vars(self._weights).items():
            if isinstance(value, Tensor):
                value.copy_(new[name])


def scratch(**tensors: Tensor) -> nn.Module:
    """A layer that owns `tensors` as parameters."""
    layer = nn.Module()
    for name, tensor in tensors.items():
        setattr(layer, name, _frozen(tensor))
    return layer


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _attributes(packed: nn.Module) -> dict[str, Any]:
    """What the kernel put on the layer, whether as parameter or not."""
    own = {name: value for name, value in vars(packed).items() if name not in _EMPTY}
    return own | packed._parameters | packed._buffers


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


_EMPTY = vars(nn.Module()).keys()
