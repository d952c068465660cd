"""int8 against its stated error bound."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.drafter.formats import int8


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 33),
    exponent=st.floats(-20, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_error_is_within_half_a_step(rows: int, columns: int, exponent: float, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(rows, columns, generator=generator) * 2.0**exponent).clamp(-6e4, 6e4).to(dtype)
    quantized = int8.quantize(weight)
    assert quantized.data.dtype == torch.int8
    assert quantized.data.shape == weight.shape
    assert quantized.scale.shape == (rows, 1)
    error = (int8.dequantize(quantized) - weight.float()).abs()
    assert (error <= quantized.scale * (0.5 + 1e-4)).all()


def test_zero_channels_stay_zero() -> None:
    weight = torch.zeros(2, 4)
    weight[1] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    restored = int8.dequantize(int8.quantize(weight))
    assert torch.equal(restored[0], torch.zeros(4))
    assert restored[1, 1] == pytest.approx(-2.0)


def test_scaling_a_channel_scales_only_its_scale() -> None:
    weight = torch.randn(3, 16)
    doubled = weight * torch.tensor([[1.0], [2.0], [4.0]])
    one, two = int8.quantize(weight), int8.quantize(doubled)
    assert torch.equal(one.data, two.data)
    assert torch.equal(two.scale, one.scale * torch.tensor([[1.0], [2.0], [4.0]]))
