"""One Triton kernel per BF16 weight that reads it once and writes codes, scales and zero points.

Equal to the specification bit for bit. What compilers and generations of hardware do in their own ways is therefore
spelled out: division is IEEE's, rounding to even is an addition, and BF16 and E4M3 are made from bits.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .formats import Format, Fp8, Fp8Block, Int4, Int4Symmetric, Quantized
from .formats.fp8 import SIDE
from .fused import buffers

WIDEST_ROW = 32768
"""Input channels of a row that still fits in the registers of a program."""
TILE = 8192
"""Weights that a program takes, where rows are shorter."""
PACKED_ROWS = 8
"""Output channels whose zero points share an int32."""


def takes(form: Format, weight: Tensor) -> bool:
    """Whether there is a kernel for this format and weight."""
    if weight.dtype != torch.bfloat16 or form.name == "bf16":
        return False
    if isinstance(form, Int4):
        return form.refusal(*weight.shape) is None
    return isinstance(form, Fp8Block) or weight.shape[1] <= WIDEST_ROW


def quantize_packed(form: Format, weight: Tensor, out: Quantized | None = None) -> Quantized:
    """As `fused.quantize_packed`, for what `takes` accepts; without `out` it allocates the result and nothing else."""
    rows, columns = weight.shape
    out = buffers(form, weight, out)
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    sides = rows, columns, weight.stride(0)
    bits = weight.view(torch.int16)
    if isinstance(form, Int4):
        size = form.block(columns).columns
        count = min(TILE // (PACKED_ROWS * size), triton.next_power_of_2(columns // size))
        grid = triton.cdiv(rows, PACKED_ROWS), triton.cdiv(columns // size, count)
        zero = out.data if out.zero is None else out.zero  # the symmetric format has none, and writes none
        tensors = bits, out.data, out.scale.view(torch.int16), zero
        _launch(_int4, grid, *tensors, *sides, isinstance(form, Int4Symmetric), size, count, num_warps=8)
    elif isinstance(form, Fp8Block):
        grid = triton.cdiv(rows, SIDE), triton.cdiv(columns, SIDE)
        _launch(_fp8_block, grid, bits, out.data.view(torch.uint8), out.scale, *sides, SIDE, num_warps=8)
    else:
        width = triton.next_power_of_2(columns)
        height = max(1, TILE // 2 // width)
        kernel, data = (_fp8, out.data.view(torch.uint8)) if isinstance(form, Fp8) else (_int8, out.data)
        warps = 4 if width * height <= TILE else 16
        _launch(kernel, (triton.cdiv(rows, height),), bits, data, out.scale, *sides, height, width, num_warps=warps)
    return out


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int) -> None:
    # Without fusion a multiplication and an addition round twice, as the specification's do.
    kernel[grid](*arguments, num_warps=num_warps, enable_fp_fusion=False)


@triton.jit
def _int8(weight, data, scale, rows, columns, stride, height: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    column = tl.arange(0, width)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = _load(weight + row[:, None] * stride + column[None, :], inside)
    magnitude = _or_nan(tl.max(tl.abs(x), axis=1), tl.max((x != x).to(tl.int32), axis=1))
    unit = _nonzero(tl.div_rn(magnitude, tl.full([height], 127.0, tl.float32)))
    codes = _between(_rounded(tl.div_rn(x, unit[:, None])), -127.0, 127.0)
    tl.store(data + row[:, None] * columns + column[None, :], codes.to(tl.int8), mask=inside)
    tl.store(scale + row, unit, mask=row < rows)


@triton.jit
def _fp8(weight, data, scale, rows, columns, stride, height: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    column = tl.arange(0, width)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = _load(weight + row[:, None] * stride + column[None, :], inside)
    magnitude = _or_nan(tl.max(tl.abs(x), axis=1), tl.max((x != x).to(tl.int32), axis=1))
    factor = _fp8_factor(magnitude, tl.full([height], 0x7F7FFFFF, tl.int32))
    codes = _e4m3(x * factor[:, None])
    tl.store(data + row[:, None] * columns + column[None, :], codes, mask=inside)
    tl.store(scale + row, tl.div_rn(tl.full([height], 1.0, tl.float32), factor), mask=row < rows)


@triton.jit
def _fp8_block(weight, data, scale, rows, columns, stride, side: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * side + tl.arange(0, side)
    column = tl.program_id(1) * side + tl.arange(0, side)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = _load(weight + row[:, None] * stride + column[None, :], inside)
    magnitude = tl.max(tl.max(tl.abs(x), axis=1, keep_dims=True), axis=0, keep_dims=True)
    broken = tl.max(tl.max((x != x).to(tl.int32), axis=1, keep_dims=True), axis=0, keep_dims=True)
    factor = _fp8_factor(_or_nan(magnitude, broken), tl.full([1, 1], 0x7F7F0000, tl.int32))
    codes = _e4m3(x * factor)
    tl.store(data + row[:, None] * columns + column[None, :], codes, mask=inside)
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1) + tl.full([1, 1], 0, tl.int32)
    tl.store(scale + place, tl.div_rn(tl.full([1, 1], 1.0, tl.float32), factor))


@triton.jit
def _int4(
    weight,
    data,
    scale,
    zero,
    rows,
    columns,
    stride,
    symmetric: tl.constexpr,
    size: tl.constexpr,
    count: tl.constexpr,
):
    band = tl.program_id(0).to(tl.int64)
    row = band * 8 + tl.arange(0, 8)
    group = tl.program_id(1) * count + tl.arange(0, count)
    word, nibble = tl.arange(0, size // 8), tl.arange(0, 8)
    groups = columns // size
    column = group[:, None, None] * size + word[None, :, None] * 8 + nibble[None, None, :]
    inside = (row < rows)[:, None] & (group < groups)[None, :]
    # [rows, groups, words, nibbles]
    x = _load(weight + (row * stride)[:, None, None, None] + column[None, :, :, :], inside[:, :, None, None])
    low, high = tl.min(tl.min(x, axis=3), axis=2), tl.max(tl.max(x, axis=3), axis=2)
    low, high = tl.minimum(low, 0.0), tl.maximum(high, 0.0)
    broken = tl.max(tl.max((x != x).to(tl.int32), axis=3), axis=2)
    if symmetric:
        unit = tl.div_rn(tl.maximum(-low, high), tl.full([8, count], 7.5, tl.float32))
    else:
        unit = tl.div_rn(high - low, tl.full([8, count], 15.0, tl.float32))
    stored = _bf16_bits(_or_nan(unit, broken))
    stored = tl.where(stored == 0, 0x3F80, stored)  # 1, for a group of zeros
    unit = (stored << 16).to(tl.float32, bitcast=True)
    middle = tl.full([8, count], 8.0, tl.float32)
    if not symmetric:
        middle = _between(_rounded(tl.div_rn(-low, unit)), 0.0, 15.0)
    codes = _between(_rounded(tl.div_rn(x, unit[:, :, None, None])) + middle[:, :, None, None], 0.0, 15.0)
    words = tl.sum(codes.to(tl.int32) << (nibble * 4)[None, None, None, :], axis=3)
    place = (row * (columns // 8))[:, None, None] + (group[:, None] * (size // 8) + word[None, :])[None, :, :]
    tl.store(data + place, words, mask=inside[:, :, None])
    tl.store(scale + (row * groups)[:, None] + group[None, :], stored.to(tl.int16), mask=inside)
    if not symmetric:
        zeros = tl.sum(middle.to(tl.int32) << (tl.arange(0, 8) * 4)[:, None], axis=0)
        tl.store(zero + band * groups + group, zeros, mask=group < groups)


@triton.jit
def _load(pointers, inside):
    """float32 from the bits of BF16; 0 outside."""
    bits = tl.load(pointers, mask=inside, other=0).to(tl.int32) << 16
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _or_nan(value, broken):
    """Maxima of GPUs ignore NaN; the specification's do not."""
    return tl.where(broken > 0, float("nan"), value)


@triton.jit
def _nonzero(scale):
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def _between(value, least, most):
    return tl.minimum(tl.maximum(value, least), most)


@triton.jit
def _rounded(value):
    """To the nearest whole number, ties to even, below 2²²: added to 1.5 · 2²³ no bits are left for a fraction."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def _bf16_bits(value):
    """Of a float32 that is not negative, rounded to even."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@triton.jit
def _fp8_factor(magnitude, largest_bits):
    factor = tl.div_rn(tl.full(magnitude.shape, 448.0, tl.float32), magnitude)
    factor = tl.where(factor == float("inf"), largest_bits.to(tl.float32, bitcast=True), factor)
    return tl.where(magnitude == 0.0, 1.0, factor)


@triton.jit
def _e4m3(value):
    """Codes of float32 values, saturated at ±448."""
    value = _between(value, -448.0, 448.0)
    bits = value.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Three bits of fraction are kept, and the exponent's bias falls from 127 to 7.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2⁻⁶ codes count steps of 2⁻⁹.
    small = _rounded(tl.abs(value) * 512.0).to(tl.int32)
    codes = tl.where(magnitude < 0x3C800000, small, normal)
    return (codes | ((bits >> 24) & 0x80)).to(tl.uint8)
