"""Triton kernels against the specification, bit for bit: on a GPU, or slowly in Triton's interpreter.

Without a GPU: `TRITON_INTERPRET=1 python -m pytest tests/gpu/test_fused.py`.
"""

import os
from importlib.util import find_spec

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.drafter.formats import FORMATS, Quantized
from nemo_rl_efficientrollout.drafter.fused import pack

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from nemo_rl_efficientrollout.drafter import fused_triton  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = [name for name in FORMATS if name != "bf16"]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, for divisions by zero


def different(a: torch.Tensor | None, b: torch.Tensor | None) -> int:
    """Elements with other bits."""
    if a is None or b is None:
        assert a is b
        return 0
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    bits = BITS[a.element_size()]
    return int((a.cpu().view(bits) != b.cpu().view(bits)).sum())


def check(name: str, weight: torch.Tensor, out: Quantized | None = None) -> Quantized:
    form, weight = FORMATS[name], weight.to(DEVICE)
    assert fused_triton.takes(form, weight)
    own = fused_triton.quantize_packed(form, weight, out)
    expected = pack(form, form.quantize(weight.cpu()))
    wrong = [different(a, b) for a, b in zip(own, expected, strict=True)]
    assert wrong == [0, 0, 0], f"{name} {list(weight.shape)}: elements of codes, scales and zeros that differ"
    return own


def random_weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Rows of magnitudes from subnormal to huge, zero, constant, one-sided, with outliers."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    weight *= 2.0 ** torch.randint(-130, 120, (rows, 1), generator=generator, dtype=torch.float64)
    for index, change in enumerate((lambda x: x * 0, torch.abs, lambda x: -x.abs(), lambda x: x[:1].expand(len(x)))):
        if index < rows:
            weight[index] = change(weight[index])
    weight[rows // 2, columns // 2] *= 1000
    return weight.clamp(-1e38, 1e38).bfloat16()


@pytest.mark.parametrize("name", ["int8", "fp8", "fp8_block"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 7), (3, 896), (130, 200), (9, 4736), (2, 9000)])
def test_rows_and_tiles_of_any_shape(name: str, rows: int, columns: int) -> None:
    check(name, random_weight(rows, columns))


@pytest.mark.parametrize("name", ["int4", "int4_symmetric"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (32, 160), (64, 192), (32, 896), (96, 1280), (32, 4736)])
def test_groups_of_every_size(name: str, rows: int, columns: int) -> None:
    check(name, random_weight(rows, columns))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-130, 120))
@example(seed=0, exponent=-130)
@settings(max_examples=25, deadline=None)
def test_any_bits(name: str, seed: int, exponent: int) -> None:
    """Ties are frequent among BF16 numbers of one magnitude."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-128, 129, (32, 64), generator=generator).double() * 2.0**exponent
    check(name, weight.bfloat16())
    bits = torch.randint(-(2**15), 2**15, (32, 64), generator=generator, dtype=torch.int16).view(torch.bfloat16)
    check(name, torch.where(bits.abs() < 1e38, bits, 1.0))


def test_scales_halfway_between_numbers_of_bf16_go_to_the_even_one() -> None:
    weight = torch.zeros(32, 32)
    weight[:, 0] = 15.0
    weight[0, 1], weight[1, 1] = -15 / 256, -45 / 256  # ranges of 15 · (1 + 1 / 256) and 15 · (1 + 3 / 256)
    scale = check("int4", weight.bfloat16()).scale
    assert scale[:2, 0].tolist() == [1.0, 1 + 4 / 256]


def test_e4m3_of_every_number() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.abs() <= 448].view(-1)
    weight = torch.cat([torch.full((1,), 448.0).bfloat16(), every])[None]
    for part in weight.split(8192, dim=1):
        check("fp8", torch.cat([torch.full((1, 1), 448.0).bfloat16(), part], 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_reaches_the_scale_of_its_block(name: str, bad: float) -> None:
    form, weight = FORMATS[name], random_weight(256, 256).to(DEVICE)
    weight[200, 130] = bad
    scale = fused_triton.quantize_packed(form, weight).scale.cpu()
    torch.testing.assert_close(scale, form.quantize(weight.cpu()).scale, rtol=0, atol=0, equal_nan=True)
    assert (~torch.isfinite(scale.float())).sum() == 1


@pytest.mark.parametrize("name", NAMES)
def test_buffers_are_refilled_in_place(name: str) -> None:
    buffers = check(name, random_weight(128, 256, seed=1))
    addresses = [part.data_ptr() for part in buffers if part is not None]
    again = check(name, random_weight(128, 256, seed=2), out=buffers)
    assert [part.data_ptr() for part in again if part is not None] == addresses
    with pytest.raises(ValueError, match=r"out\.data"):
        fused_triton.quantize_packed(FORMATS[name], random_weight(128, 512).to(DEVICE), out=buffers)


@pytest.mark.parametrize("name", NAMES)
def test_weights_may_be_part_of_another_or_transposed(name: str) -> None:
    check(name, random_weight(256, 512)[64:192, 128:384])
    check(name, random_weight(256, 128).t())


def test_what_has_no_kernel_is_not_taken() -> None:
    assert not fused_triton.takes(FORMATS["bf16"], random_weight(32, 32))
    assert not fused_triton.takes(FORMATS["int8"], random_weight(32, 32).float())
    assert not fused_triton.takes(FORMATS["int8"], torch.zeros(1, 32769, dtype=torch.bfloat16))
    assert not fused_triton.takes(FORMATS["int4"], random_weight(8, 32))
