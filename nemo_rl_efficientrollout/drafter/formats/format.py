"""What a number format is: codes, and one scale per block of the weight matrix.

A weight [N, K] has N output and K input channels. Quantizing takes two steps, so that shards of one matrix can agree in
between: the *extent* of every block (a reduction, all-reduced where a block spans shards), then the *codes*, element by
element. Everything is computed in float32, whatever the weight's type.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Block(NamedTuple):
    """Rows and columns of the weight that share a scale."""

    rows: int
    columns: int


class Extent(NamedTuple):
    """Smallest and largest value of every block, 0 included; float32 [⌈N / rows⌉, ⌈K / columns⌉] each."""

    low: Tensor
    high: Tensor

    @property
    def magnitude(self) -> Tensor:
        """max|w| of every block."""
        return torch.maximum(-self.low, self.high)


class Quantized(NamedTuple):
    """A quantized weight matrix: w ≈ scale · (code - zero)."""

    data: Tensor
    """Codes [N, K]; their type is the format's."""
    scale: Tensor
    """[⌈N / rows⌉, ⌈K / columns⌉], as the kernels read it."""
    zero: Tensor | None = None
    """Codes that mean 0, shaped like `scale`; None where the format fixes it."""


class Format(ABC):
    """A number format. Sizes are of the weight matrix [N, K] as a kernel sees it: one rank's share."""

    name: ClassVar[str]
    hardware: ClassVar[str]
    """Where vLLM has a kernel for it."""
    bits: ClassVar[int]
    """Of one code."""
    scale_bits: ClassVar[int]
    """Of one scale, with its zero point; of a BF16 policy."""
    worst_error: ClassVar[float]
    """|w - dequantized| never exceeds this many scales, where the scale is a normal number of its type."""

    @abstractmethod
    def block(self, columns: int) -> Block:
        """The block of a weight with this many input channels; may be larger than the weight."""

    @abstractmethod
    def encode(self, weight: Tensor, extent: Extent) -> Quantized:
        """Codes of `weight` [N, K], any floating type and device, given the extent of its blocks."""

    @abstractmethod
    def dequantize(self, quantized: Quantized) -> Tensor:
        """float32 [N, K]: the weights that the drafter computes with."""

    def refusal(self, rows: int, columns: int) -> str | None:
        """Why no kernel takes a weight of this shape; None if one does."""
        return None

    def extent(self, weight: Tensor) -> Extent:
        """The extent of every block of `weight` [N, K]."""
        blocks = split(weight, self.block(weight.shape[1]))
        low, high = blocks.amin(dim=(1, 3)), blocks.amax(dim=(1, 3))
        return Extent(low.clamp(max=0.0), high.clamp(min=0.0))

    def quantize(self, weight: Tensor) -> Quantized:
        """Extent and codes of a whole weight. NaN or infinity in a block shows in its scale."""
        return self.encode(weight, self.extent(weight))

    def bytes(self, rows: int, columns: int) -> int:
        """Storage of a quantized weight, scales and zero points included, without a kernel's padding."""
        block = self.block(columns)
        blocks = -(-rows // block.rows) * -(-columns // block.columns)
        return -(-rows * columns * self.bits // 8) + -(-blocks * self.scale_bits // 8)


class Scales(NamedTuple):
    """How values of a block become codes; each shaped like the extent."""

    scale: Tensor
    zero: Tensor | None = None
    """float32."""
    factor: Tensor | None = None
    """float32, what values are multiplied by, where they are not divided by the scale."""


class ScaledFormat(Format):
    """A format whose codes are computed from values one by one, once the scales of their blocks are known."""

    code: ClassVar[torch.dtype]
    """Type of the codes."""

    @abstractmethod
    def scales(self, extent: Extent, dtype: torch.dtype) -> Scales:
        """The scales of blocks, for weights of type `dtype`."""

    @abstractmethod
    def round_(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Replace float32 values, blocks as `split` makes them, by their codes, still float32, and return them."""

    def encode(self, weight: Tensor, extent: Extent) -> Quantized:
        scales = self.scales(extent, weight.dtype)
        values = split(weight.to(torch.float32, copy=True), self.block(weight.shape[1]))
        codes = join(self.round_(values, scales), *weight.shape).to(self.code)
        return Quantized(codes, scales.scale, None if scales.zero is None else scales.zero.to(self.code))


def split(weight: Tensor, block: Block) -> Tensor:
    """float32 [blocks down, block rows, blocks across, block columns]; ragged edges are filled with zeros.

    A float32 weight without ragged edges is viewed, not copied.
    """
    rows, columns = weight.shape
    height, width = min(block.rows, rows), min(block.columns, columns)
    values = weight.float()
    if columns % width or rows % height:
        values = pad(values, (0, -columns % width, 0, -rows % height))
    return values.reshape(values.shape[0] // height, height, values.shape[1] // width, width)


def join(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """Undo `split`: [N, K] without the filling."""
    down, height, across, width = blocks.shape
    return blocks.reshape(down * height, across * width)[:rows, :columns]


def spread(per_block: Tensor) -> Tensor:
    """[blocks down, blocks across] against `split`'s four dimensions."""
    return per_block.float()[:, None, :, None]


def quotient(numerator: Tensor | float, denominator: Tensor | float) -> Tensor:
    """IEEE division, one of the two a tensor. Of a number and a tensor torch makes a product with a rounded reciprocal:
    always where the number is on the left, on GPUs where it is on the right."""
    if not isinstance(denominator, Tensor):
        assert isinstance(numerator, Tensor)
        denominator = numerator.new_full((), denominator)
    if not isinstance(numerator, Tensor):
        numerator = denominator.new_full((), numerator)
    return numerator / denominator
