"""Kernel sources of the detector: what they refuse, what they multiply, and Transformer Engine against a fake."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch

from nemo_rl_efficientrollout.gate.detector.bf16 import Bf16
from nemo_rl_efficientrollout.gate.detector.kernel import lacks_fp8
from nemo_rl_efficientrollout.gate.detector.scaled_mm_fp8 import ScaledMmFp8
from nemo_rl_efficientrollout.gate.detector.te_fp8 import TransformerEngineFp8

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capability", "works"), [((8, 0), False), ((8, 9), True), ((9, 0), True), ((12, 0), True)])
def test_fp8_needs_a_gpu_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], works: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert lacks_fp8(CPU) == "no GPU"
    reason = lacks_fp8(torch.device("cuda", 0))
    assert (reason is None) == works
    assert reason is None or "8.0" in reason


def test_scaled_mm_multiplies_with_padded_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GPU kernel has a CPU twin of the same signature, which takes any sides."""
    multiply, sides = vars(torch)["_scaled_mm"], []

    def spy(x: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        sides.append((x.shape, weight.shape))
        return multiply(x, weight, **options)

    monkeypatch.setattr(torch, "_scaled_mm", spy)
    product = ScaledMmFp8().prepare(40, 24, CPU)(3)()
    assert sides == [((3, 32), (32, 48))]
    assert isinstance(product, torch.Tensor)
    assert product.dtype == torch.bfloat16
    assert 0.05 < product.float().std() < 0.5  # 1 / √K = 0.18: the scales were multiplied back


def test_bf16_multiplies_on_plain_and_packed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    for packing in (True, False):
        if not packing:
            monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        torch.manual_seed(0)
        products.append(Bf16().prepare(40, 24, CPU)(3)())
    torch.testing.assert_close(*products, atol=1e-2, rtol=1e-2)
    assert products[0].shape == (3, 40)
    assert products[0].float().abs().mean() > 0


class FakeTransformerEngine:
    """The part of its interface that the probe uses, with its rules."""

    def __init__(self) -> None:
        self.quantizing = self.autocasting = False
        self.quantized: list[tuple[int, int]] = []
        self.rows: list[int] = []

    def install(self, monkeypatch: pytest.MonkeyPatch, **pytorch: Any) -> None:
        fakes = {
            "transformer_engine": {},
            "transformer_engine.pytorch": pytorch,
            "transformer_engine.common": {},
            "transformer_engine.common.recipe": {"Float8CurrentScaling": lambda: "recipe"},
        }
        for name, attributes in fakes.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    @contextmanager
    def _flag(self, name: str, recipe: str) -> Iterator[None]:
        assert recipe == "recipe"
        setattr(self, name, True)
        yield
        setattr(self, name, False)

    def interface(self) -> dict[str, Any]:
        def linear(in_features: int, out_features: int, **_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
            assert self.quantizing
            assert in_features % 16 == out_features % 16 == 0
            self.quantized.append((out_features, in_features))

            def forward(x: torch.Tensor) -> torch.Tensor:
                assert self.autocasting
                assert x.shape[0] % 8 == 0
                self.rows.append(x.shape[0])
                return x

            return forward

        return {
            "Linear": linear,
            "quantized_model_init": lambda enabled, recipe: self._flag("quantizing", recipe),
            "autocast": lambda enabled, recipe: self._flag("autocasting", recipe),
            "is_fp8_available": lambda return_reason: (True, ""),
        }


def test_transformer_engine_quantizes_weights_once_and_pads_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransformerEngine()
    fake.install(monkeypatch, **fake.interface())
    kernel = TransformerEngineFp8()
    assert kernel.available(torch.device("cuda", 0)) is None
    gemm = kernel.prepare(40, 24, CPU)
    for rows in (1, 8, 9):
        gemm(rows)()
    assert fake.quantized == [(48, 32)]
    assert fake.rows == [8, 8, 16]


def test_transformer_engine_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, gpu = TransformerEngineFp8(), torch.device("cuda", 0)
    assert kernel.available(CPU) == "no GPU"
    fake = FakeTransformerEngine()
    fake.install(monkeypatch)
    assert kernel.available(gpu) == "transformer_engine is older than 2.9"
    fake.install(monkeypatch, **{**fake.interface(), "is_fp8_available": lambda return_reason: (False, "old cuBLAS")})
    assert kernel.available(gpu) == "transformer_engine: old cuBLAS"
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", None)
    reason = kernel.available(gpu)
    assert reason is not None
    assert reason.startswith("transformer_engine does not load: ")
    monkeypatch.setattr("nemo_rl_efficientrollout.gate.detector.te_fp8.find_spec", lambda name: None)
    assert kernel.available(gpu) == "transformer_engine is not installed"
