"""Packed weights as the specification computes them: the layout that kernels read, and buffers that stay in place."""

import pytest
import torch

from nemo_rl_efficientrollout.drafter import fused
from nemo_rl_efficientrollout.drafter.formats import FORMATS, Quantized
from nemo_rl_efficientrollout.drafter.fused import blank_packed, quantize_packed
from nemo_rl_efficientrollout.drafter.packing import pack_int4, unpack_int4

SHAPES = [(32, 64), (96, 160), (128, 256), (256, 896)]


def weight_of(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(416, 64), (128, 96), (416, 130)])
def test_bands_have_the_bits_of_the_specification(
    name: str, dtype: torch.dtype, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS[name]
    if name.startswith("int4") and columns == 130:
        columns = 160
    weight = weight_of(rows, columns).to(dtype) * torch.logspace(-3, 3, rows)[:, None].to(dtype)
    kept = weight.clone()
    expected = form.quantize(weight)
    if name.startswith("int4"):
        zero = expected.zero if expected.zero is None else pack_int4(expected.zero.t().contiguous()).t()
        expected = Quantized(pack_int4(expected.data), expected.scale, zero)
    for band in (1, 2**15, 2**30):
        monkeypatch.setattr(fused, "BAND", band)
        for own, like in zip(quantize_packed(form, weight), expected, strict=True):
            assert (own is None) == (like is None)
            if own is not None and like is not None:
                assert own.dtype == like.dtype
                fp8 = own.dtype == torch.float8_e4m3fn  # has no comparison
                assert torch.equal(own.view(torch.uint8), like.view(torch.uint8)) if fp8 else torch.equal(own, like)
    assert torch.equal(weight, kept)


@pytest.mark.parametrize("name", ["int4", "int4_symmetric"])
def test_codes_are_packed_along_inputs_and_zeros_along_outputs(name: str) -> None:
    form, weight = FORMATS[name], weight_of(32, 64)
    plain, packed = form.quantize(weight), quantize_packed(form, weight)
    assert packed.data.dtype == torch.int32
    for row, column in ((0, 0), (0, 7), (5, 8), (31, 63)):
        word = packed.data[row, column // 8].item()
        assert (int(word) >> 4 * (column % 8)) & 15 == plain.data[row, column]
    assert torch.equal(packed.scale, plain.scale)
    assert (packed.zero is None) == (plain.zero is None)
    if packed.zero is not None and plain.zero is not None:
        assert packed.zero.shape == (4, 1)
        for row in (0, 1, 7, 8, 31):
            assert (int(packed.zero[row // 8, 0]) >> 4 * (row % 8)) & 15 == plain.zero[row, 0]
        assert torch.equal(unpack_int4(packed.zero.t().contiguous()).t(), plain.zero)


@pytest.mark.parametrize("name", ["int8", "fp8", "fp8_block"])
def test_other_formats_are_packed_as_they_are(name: str) -> None:
    weight = weight_of(128, 256)
    for own, expected in zip(quantize_packed(FORMATS[name], weight), FORMATS[name].quantize(weight), strict=True):
        assert (own is None) == (expected is None)
        assert own is None or expected is None or torch.equal(own.float(), expected.float())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "bf16"])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_format_knows_the_bytes_of_its_tensors(name: str, rows: int, columns: int) -> None:
    form = FORMATS[name]
    stored = [part for part in quantize_packed(form, weight_of(rows, columns)) if part is not None]
    assert form.bytes(rows, columns) == sum(part.nbytes for part in stored)
    assert FORMATS["bf16"].bytes(rows, columns) == 2 * rows * columns


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "bf16"])
def test_buffers_are_refilled_in_place(name: str) -> None:
    form, weights = FORMATS[name], [weight_of(128, 256, seed) for seed in (0, 1)]
    buffers = quantize_packed(form, weights[0])
    addresses = [part.data_ptr() for part in buffers if part is not None]
    again = quantize_packed(form, weights[1], out=buffers)
    assert [part.data_ptr() for part in again if part is not None] == addresses
    for own, expected in zip(buffers, quantize_packed(form, weights[1]), strict=True):
        assert own is None or expected is None or torch.equal(own.float(), expected.float())


def test_buffers_that_do_not_fit_are_refused() -> None:
    form, weight = FORMATS["int4"], weight_of(32, 64)
    data, scale, zero = quantize_packed(form, weight)
    for wrong, name in (
        (Quantized(data[:16], scale, zero), "out.data"),
        (Quantized(data.long(), scale, zero), "out.data"),
        (Quantized(data.t().contiguous().t(), scale, zero), "out.data"),
        (Quantized(data, scale.float(), zero), "out.scale"),
        (Quantized(data, scale), "out.zero"),
    ):
        with pytest.raises(ValueError, match=name):
            quantize_packed(form, weight, out=wrong)


def test_blank_is_like_the_result() -> None:
    for name, form in FORMATS.items():
        made, blank = quantize_packed(form, weight_of(128, 256)), blank_packed(form, 128, 256, torch.bfloat16)
        for own, like in zip(made, blank, strict=True):
            assert (own is None) == (like is None), name
            assert own is None or like is None or (own.shape, own.dtype) == (like.shape, like.dtype)
