"""Parts of quantized weights in a refit stream: packing, names, and what a reader refuses."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nemo_rl_efficientrollout.drafter.formats import FORMATS, Format, Quantized
from nemo_rl_efficientrollout.drafter.packing import (
    PREFIX,
    StreamReader,
    blank,
    named_parts,
    pack_int4,
    parts,
    read_stream,
    unpack_int4,
)
from nemo_rl_efficientrollout.errors import UserError

NAMES = [name for name in FORMATS if name != "bf16"]
NAME = "model.layers.0.mlp.up_proj.weight"
INT4, INT8 = FORMATS["int4"], FORMATS["int8"]


def stream(format: Format, weights: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [
        entry for name, weight in weights.items() for entry in named_parts(name, parts(format, format.quantize(weight)))
    ]


def same(a: Quantized, b: Quantized) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None or y is not None]
    return all(
        x is not None and y is not None and x.dtype == y.dtype and torch.equal(x.float(), y.float()) for x, y in pairs
    )


def test_the_lowest_nibble_is_the_first_column() -> None:
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 15]], dtype=torch.uint8)
    packed = pack_int4(codes)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [[0x87654321 - 2**32, 0xF0000000 - 2**32]]
    assert torch.equal(unpack_int4(packed), codes)


def test_packing_is_that_of_compressed_tensors() -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(0, 16, (12, 64), dtype=torch.uint8)
    assert torch.equal(pack_int4(codes), helpers.pack_to_int32(codes.to(torch.int8) - 8, 4))


@given(rows=st.integers(1, 9), words=st.integers(1, 9), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_unpacking_undoes_packing(rows: int, words: int, seed: int) -> None:
    codes = torch.randint(0, 16, (rows, 8 * words), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(unpack_int4(pack_int4(codes)), codes)


def test_codes_of_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes \[3, 12\] cannot be packed: 8 must divide the columns"):
        pack_int4(torch.zeros(3, 12, dtype=torch.uint8))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(128, 256), (300, 96), (1, 32)])
def test_a_blank_has_the_shapes_and_types_of_a_weight(name: str, shape: tuple[int, int]) -> None:
    real = parts(FORMATS[name], FORMATS[name].quantize(torch.randn(*shape).bfloat16()))
    like = blank(FORMATS[name], *shape, torch.bfloat16)
    assert {part: (t.shape, t.dtype) for part, t in real.items()} == {p: (t.shape, t.dtype) for p, t in like.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_read_back_in_any_order(name: str) -> None:
    weights = {NAME: torch.randn(96, 128).bfloat16(), "lm_head.weight": torch.randn(300, 64).bfloat16()}
    entries = stream(FORMATS[name], weights)
    assert all(entry.startswith(PREFIX) for entry, _ in entries)
    assert any(entry.endswith(".zero") for entry, _ in entries) == (name == "int4")
    random.Random(0).shuffle(entries)
    received = read_stream(entries, FORMATS[name])
    assert received.keys() == weights.keys()
    for key, weight in weights.items():
        assert same(received[key], FORMATS[name].quantize(weight))


def test_a_weight_is_complete_with_its_last_part() -> None:
    entries = stream(INT4, {NAME: torch.randn(32, 64)})
    reader = StreamReader(INT4)
    assert [reader.add(*entry) is None for entry in entries] == [True, True, False]
    reader.finish()


CODES = torch.zeros(4, 8, dtype=torch.int8)
SCALE = torch.ones(4, 1)
WHOLE = {"codes": CODES, "scale": SCALE}


@pytest.mark.parametrize(
    ("format", "entries", "line"),
    [
        (INT8, {NAME: CODES}, f"'{NAME}' is no drafter weight: 'efficientrollout.<name>.<part>' expected"),
        (INT8, {PREFIX + "codes": CODES}, "is no drafter weight"),
        (INT8, {f"{PREFIX}{NAME}.code": CODES}, "ends in no part of format int8 (did you mean 'codes'?)"),
        (INT8, {f"{PREFIX}{NAME}.zero": SCALE}, "ends in no part of format int8; parts: .codes, .scale"),
        (INT8, {f"{PREFIX}{NAME}.codes": CODES}, f"'{PREFIX}{NAME}' came without .scale"),
        (INT4, {f"{PREFIX}{NAME}.scale": SCALE}, "came without .codes, .zero"),
        (
            INT8,
            dict(named_parts(NAME, WHOLE | {"scale": torch.ones(3, 1)})),
            f"'{PREFIX}{NAME}.scale' is float32 [3, 1], float32 [4, 1] expected for int8 codes of [4, 8]",
        ),
        (
            INT8,
            dict(named_parts(NAME, WHOLE | {"codes": CODES.float()})),
            "codes' is float32 [4, 8], int8 [4, 8] expected",
        ),
        (INT8, dict(named_parts(NAME, WHOLE | {"codes": CODES[0]})), "a matrix of codes and floating-point scales"),
        (INT8, dict(named_parts(NAME, WHOLE | {"scale": SCALE.int()})), "a matrix of codes and floating-point scales"),
        (FORMATS["fp8_block"], dict(stream(FORMATS["fp8"], {NAME: torch.ones(4, 8)})), "is the trainer's format"),
    ],
)
def test_a_bad_stream_is_refused_by_name(format: Format, entries: dict[str, Tensor], line: str) -> None:
    with pytest.raises(UserError) as refused:
        read_stream(entries.items(), format)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("late", [False, True])
def test_a_part_that_comes_twice_is_refused(late: bool) -> None:
    entries = list(named_parts(NAME, WHOLE))
    with pytest.raises(UserError, match="came twice"):
        read_stream([*entries, entries[0]] if late else [entries[0], *entries], INT8)
