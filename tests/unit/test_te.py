"""Transformer Engine's FP8: its arithmetic, retold one number at a time, and its quantizer, against a fake."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_rl_efficientrollout.drafter.formats import FORMATS, Quantized
from nemo_rl_efficientrollout.drafter.formats import te as our_te
from nemo_rl_efficientrollout.errors import UnsupportedError

EXPONENTS = {torch.bfloat16: (-133, 128), torch.float16: (-24, 16), torch.float32: (-149, 128)}


def factor_of(amax: Tensor, value_for_inf: float) -> Tensor:
    """`compute_scale_from_amax` of its recipe_common.cuh with epsilon 0 and no powers of two, for finite amax."""
    if amax == 0:
        return torch.tensor(1.0)
    scale = torch.tensor(448.0) / amax
    return torch.tensor(value_for_inf) if scale.isinf() else scale


@pytest.mark.parametrize("dtype", EXPONENTS)
@pytest.mark.parametrize("name", ["fp8", "fp8_block"])
def test_scales_and_codes_are_transformer_engines_for_every_magnitude(name: str, dtype: torch.dtype) -> None:
    # Its kernel for blocks puts the largest number of the weights' type in place of infinity, the others float32's.
    value_for_inf = torch.finfo(dtype if name == "fp8_block" else torch.float32).max
    magnitudes = torch.tensor([0.0, *(1.7 * 2.0**exponent for exponent in range(*EXPONENTS[dtype]))]).to(dtype)
    parts = torch.tensor([1.0, -0.7, 1e-3, 0.0]).to(dtype)
    assert torch.isfinite(magnitudes).all()
    replaced = 0
    for magnitude in magnitudes:
        weight = (parts * magnitude)[None]
        factor = factor_of(magnitude.float(), value_for_inf)
        replaced += int(factor == value_for_inf)
        quantized = FORMATS[name].quantize(weight)
        assert torch.equal(quantized.scale, (1 / factor).view(1, 1))
        expected = (weight.float() * factor).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert torch.equal(quantized.data.view(torch.uint8), expected.view(torch.uint8))
    assert (replaced > 5) == (dtype != torch.float16)


class FakeTransformerEngine:
    """Its block quantizer: uint8 codes, scales padded to a multiple of four; remembers how it was made."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, dict[str, Any]]] = []

    def quantizer(self, dtype: Any, **options: Any) -> Any:
        self.made.append((dtype, options))

        def quantize(weight: Tensor) -> Any:
            assert weight.is_contiguous()
            assert not torch.is_grad_enabled()
            data, scale, _ = FORMATS["fp8_block"].quantize(weight)
            filled = torch.nn.functional.pad(scale, (0, -scale.shape[1] % 4), value=7.0)
            parts = {"rowwise_data": data.view(torch.uint8), "rowwise_scale_inv": filled}
            return SimpleNamespace(get_metadata=lambda: parts)

        return quantize

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        binding = {"DType": SimpleNamespace(kFloat8E4M3="E4M3")}
        fakes = {
            "transformer_engine": {},
            "transformer_engine.pytorch": {"Float8BlockQuantizer": self.quantizer},
            "transformer_engine_torch": binding,
        }
        for name, attributes in fakes.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, name, module)


def test_the_quantizer_is_asked_for_square_blocks_and_exact_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransformerEngine()
    fake.install(monkeypatch)
    monkeypatch.setattr(our_te, "why_not", lambda device: None)
    weight = torch.randn(640, 256).bfloat16().t().requires_grad_()
    quantized, expected = our_te.quantize_fp8_block(weight), FORMATS["fp8_block"].quantize(weight.detach())
    exact = {"rowwise": True, "columnwise": False, "amax_epsilon": 0.0, "force_pow_2_scales": False}
    assert fake.made == [("E4M3", {**exact, "block_scaling_dim": 2})]
    assert quantized.data.dtype == torch.float8_e4m3fn
    assert torch.equal(quantized.data.float(), expected.data.float())
    assert quantized.scale.shape == (2, 5)
    assert quantized.scale.is_contiguous()
    assert torch.equal(quantized.scale, expected.scale)


@pytest.mark.parametrize("fault", ["", "other scales", "other codes", "other interface"])
def test_it_is_used_only_where_it_gives_the_specifications_bits(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    FakeTransformerEngine().install(monkeypatch)
    monkeypatch.setattr(our_te, "why_not", lambda device: None)
    quantize = our_te.quantize_fp8_block
    if fault == "other interface":
        monkeypatch.setitem(sys.modules, "transformer_engine_torch", ModuleType("transformer_engine_torch"))
    elif fault:
        scale, shift = (2.0, 0) if fault == "other scales" else (1.0, 1)

        def differently(weight: Tensor) -> Quantized:
            data, scales, _ = quantize(weight)
            return Quantized((data.view(torch.uint8) + shift).view(torch.float8_e4m3fn), scales * scale)

        monkeypatch.setattr(our_te, "quantize_fp8_block", differently)
    our_te.is_proven.cache_clear()
    assert our_te.is_proven(torch.device("cpu")) == (not fault)
    our_te.is_proven.cache_clear()


@pytest.mark.parametrize(("capability", "works"), [((8, 9), False), ((9, 0), True), ((10, 0), False)])
def test_only_hopper_has_scales_that_are_no_powers_of_two(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], works: bool
) -> None:
    FakeTransformerEngine().install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = our_te.why_not(torch.device("cuda", 0))
    assert (reason is None) == works
    assert reason is None or f"{capability[0]}.{capability[1]}" in reason


def test_why_not_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(UnsupportedError, match="no GPU"):
        our_te.quantize_fp8_block(torch.zeros(128, 128))
    FakeTransformerEngine().install(monkeypatch)
    del vars(sys.modules["transformer_engine.pytorch"])["Float8BlockQuantizer"]
    assert our_te.why_not(gpu) == "transformer_engine has no Float8BlockQuantizer: too old"
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", None)
    assert str(our_te.why_not(gpu)).startswith("transformer_engine does not load: ")
    monkeypatch.setattr(our_te, "find_spec", lambda name: None)
    assert our_te.why_not(gpu) == "transformer_engine is not installed"
