"""Number formats: how far dequantized weights may be from the weights, and the very codes that kernels expect."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nemo_rl_efficientrollout.drafter.formats import FORMATS, Block, Extent, Format, format_named
from nemo_rl_efficientrollout.drafter.formats.format import join, split

INF, NAN = float("inf"), float("nan")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
EXPONENTS = {torch.bfloat16: (-133, 125), torch.float16: (-24, 14), torch.float32: (-149, 125)}
"""Of two: from the smallest subnormal number to a quarter of the largest number."""
ROWS = ("normal", "zero", "constant", "positive", "negative", "outlier", "one weight")
CODES = {  # type, least, most
    "int4": (torch.uint8, 0, 15),
    "int4_symmetric": (torch.uint8, 0, 15),
    "int8": (torch.int8, -127, 127),
    "fp8": (torch.float8_e4m3fn, -448, 448),
    "fp8_block": (torch.float8_e4m3fn, -448, 448),
}
QUANTIZING = sorted(CODES)
E4M3 = torch.arange(0, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
"""Every number of the format that is not negative, in order of its code."""


def row(kind: str, columns: int, scale: float, generator: torch.Generator) -> Tensor:
    values = torch.randn(columns, generator=generator, dtype=torch.float64)
    if kind == "zero":
        values = torch.zeros_like(values)
    if kind == "constant":
        values = values[:1].expand(columns)
    if kind == "positive":
        values = values.abs()
    if kind == "negative":
        values = -values.abs()
    if kind == "outlier":
        values[0] = 1e3
    if kind == "one weight":
        values[1:] = 0
    return values / values.abs().max().clamp(min=1e-9) * scale


def weights(kinds: list[str], exponents: list[int], columns: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    low, high = EXPONENTS[dtype]
    generator = torch.Generator().manual_seed(seed)
    scales = [2.0 ** min(max(exponent, low), high) for exponent in exponents]
    rows = [row(kind, columns, scale, generator) for kind, scale in zip(kinds, scales, strict=False)]
    return torch.stack(rows).to(dtype)


def ordinary(rows: int = 32, columns: int = 256, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return weights([ROWS[seed % len(ROWS)], *["normal"] * (rows - 1)], [-5] * rows, columns, dtype, seed)


def per_weight(form: Format, per_block: Tensor, like: Tensor) -> Tensor:
    """A value of every block, at each of its weights."""
    block = form.block(like.shape[1])
    height, width = min(block.rows, like.shape[0]), min(block.columns, like.shape[1])
    spread = per_block.double().repeat_interleave(height, 0).repeat_interleave(width, 1)
    return spread[: like.shape[0], : like.shape[1]]


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Bit for bit."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.lists(st.tuples(st.sampled_from(ROWS), st.integers(-149, 125)), min_size=1, max_size=5),
    columns=st.sampled_from([1, 32, 40, 96, 130, 256]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_error_is_at_most_the_promised_number_of_scales(
    name: str, dtype: torch.dtype, rows: list[tuple[str, int]], columns: int, seed: int
) -> None:
    form = FORMATS[name]
    weight = weights([kind for kind, _ in rows], [exponent for _, exponent in rows], columns, dtype, seed)
    quantized = form.quantize(weight)
    assert torch.isfinite(quantized.scale.float()).all()
    scale = per_weight(form, quantized.scale, weight)
    bound = form.worst_error * scale
    number = torch.finfo(quantized.scale.dtype)
    # A scale that is no normal number of its type is itself off by up to half its smallest step.
    bound += torch.where(scale < number.tiny, 127.0 * number.smallest_normal * number.eps, 0.0)
    error = (weight.double() - form.dequantize(quantized).double()).abs()
    assert (error <= bound).all(), (error / scale).max()


@pytest.mark.parametrize("name", QUANTIZING)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_use_their_range_and_nothing_beyond(name: str, dtype: torch.dtype) -> None:
    weight = weights(list(ROWS), [-5] * len(ROWS), 256, dtype)
    quantized = FORMATS[name].quantize(weight)
    expected, least, most = CODES[name]
    codes = quantized.data.float()
    assert quantized.data.dtype == expected
    assert quantized.data.shape == weight.shape
    assert codes.min() == least
    assert codes.max() == most
    assert quantized.scale.dtype == (dtype if name.startswith("int4") else torch.float32)
    assert (quantized.zero is not None) == (name == "int4")
    assert quantized.zero is None or (quantized.zero.dtype == torch.uint8 and quantized.zero.max() <= 15)
    assert (FORMATS[name].dequantize(quantized)[weight == 0] == 0).all()


def first(row_of_codes: Tensor, count: int) -> list[float]:
    return row_of_codes[0, :count].float().tolist()


def padded(values: list[float], columns: int = 32) -> Tensor:
    return torch.tensor([values + [0.0] * (columns - len(values))])


def test_int8_by_hand() -> None:
    quantized = FORMATS["int8"].quantize(torch.tensor([[127.0, -64.0, 0.5], [0.0, 0.0, 0.0], [1.5, 2.5, -254.0]]))
    assert quantized.data.tolist() == [[127, -64, 0], [0, 0, 0], [1, 1, -127]]  # 0.75 and 1.25 of scale 2
    assert quantized.scale.tolist() == [[1.0], [1.0], [2.0]]


def test_int4_by_hand() -> None:
    quantized = FORMATS["int4"].quantize(padded([-1.25, 2.5, 0.1, 0.5, 0.125, 0.375]))
    assert quantized.zero is not None
    assert quantized.scale.tolist() == [[0.25]]
    assert quantized.zero.tolist() == [[5]]
    assert first(quantized.data, 7) == [0, 15, 5, 7, 5, 7, 5]  # 0.125 and 0.375 lie halfway; the zero is added after
    one_sided = FORMATS["int4"].quantize(padded([30.0, 16.0, 14.9]))
    assert (one_sided.scale.item(), one_sided.zero.item() if one_sided.zero is not None else None) == (2.0, 0)
    assert first(one_sided.data, 4) == [15, 8, 7, 0]


def test_codes_stay_in_range_where_scales_are_coarse() -> None:
    """The smallest numbers of a type: 22 of them over 15 levels, or 190 over 127, leave a scale of one."""
    half = FORMATS["int4"].quantize(padded([-22 * 2.0**-24]).half())
    assert half.zero is not None
    assert (half.scale.item(), half.zero.item(), half.data.amin().item()) == (2.0**-24, 15, 0)
    assert FORMATS["int8"].quantize(torch.tensor([[-190 * 2.0**-149]])).data.item() == -127


def test_rounding_the_scale_of_int4_costs_a_little_more_than_half_a_level() -> None:
    weight = padded([0.0]).repeat(20000, 1).bfloat16()
    weight[:, :2] = torch.rand(20000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([-1.0, 1.0])
    quantized = FORMATS["int4"].quantize(weight)
    error = ((weight.float() - FORMATS["int4"].dequantize(quantized)).abs() / quantized.scale.float()).max()
    assert 0.52 < error < FORMATS["int4"].worst_error


def test_int4_symmetric_by_hand() -> None:
    quantized = FORMATS["int4_symmetric"].quantize(padded([-3.75, 3.75, 3.5, 0.3, 0.25, 0.75]))
    assert quantized.scale.tolist() == [[0.5]]
    assert first(quantized.data, 7) == [0, 15, 15, 9, 8, 10, 8]  # -7.5 and 7.5 round to -8 and 8


def test_fp8_by_hand() -> None:
    weight = torch.tensor([[896.0, -4.0, 0.0, 34.0, 38.0, 2.0**-9], [0.0] * 6, [-7.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    quantized = FORMATS["fp8"].quantize(weight)
    assert quantized.scale.tolist() == [[2.0], [1.0], [1 / 64]]
    # 17 and 19 lie halfway between 16, 18 and 20; 2⁻¹⁰ halfway between 0 and the smallest number.
    assert quantized.data.float().tolist() == [[448, -2, 0, 16, 20, 0], [0.0] * 6, [-448, 64, 0, 0, 0, 0]]


def test_fp8_saturates_where_the_extent_was_too_small() -> None:
    extent = Extent(torch.zeros(1, 1), torch.full((1, 1), 224.0))
    assert FORMATS["fp8"].encode(torch.tensor([[-3000.0, 500.0]]), extent).data.float().tolist() == [[-448, 448]]


def test_fp8_block_by_hand() -> None:
    weight = torch.zeros(130, 256)
    weight[0, 0], weight[127, 127], weight[129, 128] = 224.0, 1.0, -3.5
    quantized = FORMATS["fp8_block"].quantize(weight)
    assert quantized.scale.tolist() == [[0.5, 1.0], [1.0, 1 / 128]]
    codes = quantized.data.float()
    assert (codes[0, 0], codes[127, 127], codes[129, 128]) == (448, 2, -448)
    assert codes.count_nonzero() == 3


def test_bf16_is_the_policy_itself() -> None:
    weight = ordinary()
    quantized = FORMATS["bf16"].quantize(weight)
    assert quantized.data is weight
    assert torch.equal(FORMATS["bf16"].dequantize(quantized), weight.float())


@pytest.mark.parametrize("name", ["fp8", "fp8_block"])
@given(value=st.floats(-448, 448, width=32))
@settings(max_examples=200, deadline=None)
def test_fp8_codes_are_the_nearest_numbers_and_ties_go_to_even(name: str, value: float) -> None:
    form, weight = FORMATS[name], torch.full((1, 2), value)
    code = form.encode(weight, Extent(torch.tensor([[-448.0]]), torch.tensor([[448.0]]))).data[0, 0].double()
    distance = (E4M3 - abs(value)).abs()
    nearest = (distance == distance.min()).nonzero().flatten()
    expected = next(int(at) for at in nearest if len(nearest) == 1 or at % 2 == 0)
    assert code == math.copysign(E4M3[expected].item(), value)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_fp8_loses_a_sixteenth_of_normal_numbers(seed: int) -> None:
    weight = weights(["normal", "outlier"], [0, 0], 256, torch.float32, seed)
    quantized = FORMATS["fp8"].quantize(weight)
    normal = (weight / quantized.scale).abs() >= 2.0**-6
    relative = ((FORMATS["fp8"].dequantize(quantized) - weight) / weight).abs()[normal]
    assert relative.max() <= 2.0**-4 + 1e-6
    assert relative.max() > 2.0**-5


@pytest.mark.parametrize(
    ("columns", "group"),
    [(896, 128), (4864, 128), (18944 // 4, 128), (18944 // 8, 64), (96, 32), (160, 32), (192, 64), (32, 32), (33, 32)],
)
def test_groups_of_int4_divide_the_width(columns: int, group: int) -> None:
    for name in ("int4", "int4_symmetric"):
        assert FORMATS[name].block(columns) == Block(1, group)
        assert (FORMATS[name].refusal(64, columns) is None) == (columns % group == 0)
        assert FORMATS[name].quantize(ordinary(8, columns)).scale.shape == (8, math.ceil(columns / group))


@pytest.mark.parametrize(
    ("name", "rows", "columns", "taken"),
    [
        ("int4", 48, 128, False),
        ("int8", 3, 7, True),
        ("fp8", 24, 128, False),
        ("fp8", 32, 24, False),
        ("fp8", 32, 48, True),
        ("fp8_block", 128, 192, False),
        ("fp8_block", 192, 128, False),
        ("fp8_block", 256, 128, True),
        ("bf16", 3, 7, True),
    ],
)
def test_shapes_that_kernels_refuse_are_refused_by_their_sides(name: str, rows: int, columns: int, taken: bool) -> None:
    reason = FORMATS[name].refusal(rows, columns)
    assert (reason is None) == taken
    assert reason is None or str(rows) in reason or str(columns) in reason


@pytest.mark.parametrize("name", QUANTIZING)
@pytest.mark.parametrize(("rows", "columns"), [(130, 200), (5, 40), (128, 129)])
def test_every_block_is_quantized_as_if_it_were_alone(name: str, rows: int, columns: int) -> None:
    form, weight = FORMATS[name], ordinary(rows, columns, seed=4)
    block, whole = form.block(columns), form.quantize(weight)
    for down, top in enumerate(range(0, rows, block.rows)):
        for across, left in enumerate(range(0, columns, block.columns)):
            place = slice(top, top + block.rows), slice(left, left + block.columns)
            alone = form.quantize(weight[place])
            assert same(alone.data, whole.data[place])
            assert alone.scale.item() == whole.scale[down, across].item()


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), height=st.integers(1, 10), width=st.integers(1, 10))
def test_joining_undoes_splitting(rows: int, columns: int, height: int, width: int) -> None:
    weight = torch.arange(1.0, rows * columns + 1).view(rows, columns)
    assert torch.equal(join(split(weight, Block(height, width)), rows, columns), weight)


@pytest.mark.parametrize("name", ["int4", "int4_symmetric", "fp8_block", "bf16"])
def test_quantizing_columns_that_respect_blocks_equals_cutting_the_result(name: str) -> None:
    form, weight = FORMATS[name], ordinary(256, 512, seed=3)
    whole = form.quantize(weight)
    for left in (0, 256):
        part = form.quantize(weight[:, left : left + 256])
        blocks = slice(left // form.block(512).columns, (left + 256) // form.block(512).columns)
        assert same(part.data, whole.data[:, left : left + 256])
        if name != "bf16":
            assert same(part.scale, whole.scale[:, blocks])
            assert same(part.zero, None if whole.zero is None else whole.zero[:, blocks])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_that_agree_on_extents_have_the_codes_of_the_whole(name: str, shards: int) -> None:
    form, weight = FORMATS[name], ordinary(256, 512, seed=3)
    whole, parts = form.quantize(weight), weight.chunk(shards, dim=1)
    extents = [form.extent(part) for part in parts]
    if form.block(512).columns >= 512:  # a block spans all shards: what an all-reduce does
        low = torch.stack([extent.low for extent in extents]).amin(0)
        high = torch.stack([extent.high for extent in extents]).amax(0)
        extents = [Extent(low, high)] * shards
    codes = [form.encode(part, extent).data for part, extent in zip(parts, extents, strict=True)]
    assert same(torch.cat(codes, 1), whole.data)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_weights_that_are_no_numbers_are_found(name: str, dtype: torch.dtype, bad: float) -> None:
    form, weight = FORMATS[name], ordinary(256, 256, dtype)
    assert torch.isfinite(torch.stack(form.extent(weight))).all()
    weight[200, 130] = bad
    extent = form.extent(weight)
    assert not torch.isfinite(torch.stack(extent)).all()
    if name != "bf16":
        at = 200 // form.block(256).rows, 130 // form.block(256).columns
        finite = torch.isfinite(form.encode(weight, extent).scale.float())
        assert not finite[at], "who has only the scales can tell too"
        assert finite.sum() == finite.numel() - 1


def test_unknown_formats_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'int8'"):
        format_named("in8")
    assert format_named("fp8_block") is FORMATS["fp8_block"]
