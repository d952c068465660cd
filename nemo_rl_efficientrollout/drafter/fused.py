"""Weights quantized and packed as kernels read them, in place, and in one pass over memory."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .formats import Format, Quantized, te
from .formats.format import ScaledFormat, join, split
from .formats.fp8 import SIDE
from .packing import PER_WORD, is_packed, pack_int4

BAND = 2**20
"""Weights that a CPU quantizes at a time, 4 MiB as float32: all steps but the first and last then stay in its cache."""


def quantize_packed(form: Format, weight: Tensor, out: Quantized | None = None) -> Quantized:
    """`form.quantize(weight)`, bit for bit, with four-bit codes and zero points eight to an int32.

    On a GPU, blocks of FP8 are Transformer Engine's where it is present, and with Triton one kernel reads each BF16
    weight once. Elsewhere, for other types, and for sides that no such kernel takes, the specification computes it some
    output channels at a time.

    Args:
        weight: [N, K], floating.
        out: what an earlier call returned for this format, shape, type and device; overwritten and returned.

    Returns:
        Codes [N, K] in the format's type, or int32 [N, K / 8], the first along K in the lowest bits; scales as the
        format has them; zero points int32 [N / 8, blocks], the first along N in the lowest bits, or None. Without
        `out`, format `bf16` returns the weight itself.

    Raises:
        ValueError: `out` does not fit, or 8 does not divide a side that is packed.
    """
    if not isinstance(form, ScaledFormat):
        return form.quantize(weight)
    if weight.is_cuda and form.name == "fp8_block" and te.is_proven(weight.device):
        return _into(out, te.quantize_fp8_block(weight), form, weight)
    if weight.is_cuda and find_spec("triton") is not None:
        from . import fused_triton

        if fused_triton.takes(form, weight):
            return fused_triton.quantize_packed(form, weight, out)
    out = buffers(form, weight, out)
    _by_bands(form, weight, out)
    return out


def _into(out: Quantized | None, made: Quantized, form: Format, weight: Tensor) -> Quantized:
    if out is None:
        return made
    for own, new in zip(buffers(form, weight, out), made, strict=True):
        if own is not None and new is not None:
            own.copy_(new)
    return out


def buffers(form: Format, weight: Tensor, out: Quantized | None = None) -> Quantized:
    """Uninitialized tensors for the packed `weight`; or `out`, which may be given, if it fits, else ValueError."""
    blank = blank_packed(form, *weight.shape, weight.dtype)
    if out is not None:
        _check_fits(out, blank)
        return out
    data, scale, zero = blank
    device = weight.device
    return Quantized(
        torch.empty_like(data, device=device),
        torch.empty_like(scale, device=device),
        None if zero is None else torch.empty_like(zero, device=device),
    )


@cache
def blank_packed(form: Format, rows: int, columns: int, dtype: torch.dtype) -> Quantized:
    """Shapes and types of what `quantize_packed` returns for a weight [rows, columns], as tensors without storage."""
    return pack(form, form.quantize(torch.empty(rows, columns, dtype=dtype, device="meta")))


def pack(form: Format, quantized: Quantized) -> Quantized:
    """Four-bit codes along K and zero points along N, eight to an int32, as compressed-tensors stores them; other
    formats as they are."""
    if not is_packed(form):
        return quantized
    data, scale, zero = quantized
    return Quantized(pack_int4(data), scale, None if zero is None else _pack_zeros(zero))


def _pack_zeros(zero: Tensor) -> Tensor:
    return pack_int4(zero.t()).t().contiguous()


def _by_bands(form: ScaledFormat, weight: Tensor, out: Quantized) -> None:
    rows, columns = weight.shape
    height = rows if weight.is_cuda else min(rows, max(1, BAND // columns // SIDE) * SIDE)
    # Made once: what a CPU allocates and frees for every band, it may have to ask of the system every time.
    scratch = torch.empty(height, columns, dtype=torch.float32, device=weight.device)
    block = form.block(columns)
    for top in range(0, rows, height):
        values = scratch[: min(height, rows - top)].copy_(weight[top : top + height])
        scales = form.scales(form.extent(values), weight.dtype)
        codes = join(form.round_(split(values, block), scales), *values.shape)
        end = top + len(values)
        if is_packed(form):
            out.data[top:end] = pack_int4(codes.to(torch.int8))
        else:
            out.data[top:end] = codes
        # A band is whole blocks, and whole words of zero points.
        first = top // min(block.rows, rows)
        out.scale[first : first + len(scales.scale)] = scales.scale
        if out.zero is not None and scales.zero is not None:
            out.zero[top // PER_WORD : end // PER_WORD] = _pack_zeros(scales.zero.to(torch.int8))


def _check_fits(out: Quantized, blank: Quantized) -> None:
    for name, own, like in zip(Quantized._fields, out, blank, strict=True):
        if (own is None) != (like is None):
            raise ValueError(f"out.{name} must be {'None' if like is None else 'a tensor'} for this format")
        if own is None or like is None:
            continue
        if (own.shape, own.dtype, own.is_contiguous()) != (like.shape, like.dtype, True):
            raise ValueError(
                f"out.{name} is {own.dtype} {list(own.shape)}, contiguous {like.dtype} {list(like.shape)} expected"
            )
