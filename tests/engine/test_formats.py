"""Every number format in the real engine: what it drafts is verified, and its kernel computes what the format says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from tests.engines import difference, generate, prompts, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model, weights_of

pytestmark = pytest.mark.engine
BATCH = prompts(8, VOCABULARY)
TOLERANCE = {"int4": 0.005, "int4_symmetric": 0.005, "int8": 0.02, "fp8": 0.04}
"""BF16 rounding, and what quantizing activations per token to 8 bits adds."""
QUANTIZED = [name for name in FORMATS if name != "bf16"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("qwen2"), "qwen2", hidden=256, sharpness=4.0)  # with biases


def settings(name: str, **drafter: Any) -> dict[str, Any]:
    return {
        "drafter": {"format": name, **drafter},
        "draft_length": {"max": 3},
        "gate": {"mode": "fixed", "draft_length": 3},
        "strict": True,
    }


def acceptance(llm: Any, tokens: int = 40) -> tuple[list[list[int]], float]:
    before = stats(llm)
    output = generate(llm, BATCH, tokens)
    after = stats(llm)
    return output, difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")


def test_simulated_formats_draft_and_are_verified_exactly(model: Path) -> None:
    plain = generate(start(model), BATCH, 40)
    rates = {}
    for name in QUANTIZED:
        output, rates[name] = acceptance(start(model, settings(name, simulate=True)))
        assert output == plain
    assert all(0.3 < rate < 1.0 for rate in rates.values()), rates
    assert rates["int8"] > max(rates["int4"], rates["int4_symmetric"]), rates  # a hundredth of the error
    assert min(rates["fp8"], rates["fp8_block"]) > max(rates["int4"], rates["int4_symmetric"]), rates


@pytest.mark.parametrize("name", ["int4", "int4_symmetric", "int8", "fp8"])
def test_kernel_computes_with_the_weights_of_the_specification(model: Path, name: str) -> None:
    llm = start(model, settings(name), dtype="bfloat16")
    twin = worker_state(llm).twin
    assert len(twin.quantized) == 9  # four linears of each layer, and the head
    torch.manual_seed(0)
    for layer in twin.quantized:
        form, weight = FORMATS[name], layer.source.weight
        x = torch.randn(5, weight.shape[1], dtype=torch.bfloat16)
        bias = layer.layer._parameters.get("bias")
        got = layer.method.apply(layer.layer, x, bias).float()
        wanted = x.float() @ form.dequantize(form.quantize(weight)).t()
        if bias is not None:
            assert layer.path.endswith("qkv_proj")
            wanted += bias.float()
        error = (got - wanted).norm() / wanted.norm()
        assert error < TOLERANCE[name], (layer.path, error)


@pytest.mark.parametrize("name", ["int4", "int4_symmetric", "fp8"])
def test_drafter_takes_no_more_memory_than_its_format_says(model: Path, name: str) -> None:
    twin = worker_state(start(model, settings(name), dtype="bfloat16")).twin
    wanted = sum(FORMATS[name].bytes(*layer.source.weight.shape) for layer in twin.quantized)
    biases = sum(
        layer.source.bias.nbytes for layer in twin.quantized if getattr(layer.source, "bias", None) is not None
    )
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in twin.tensors()}
    assert wanted <= sum(storages.values()) <= 1.03 * wanted + biases


@pytest.mark.parametrize("name", ["int4", "int8", "fp8"])
def test_kernel_and_simulation_are_refilled_in_place_alike(model: Path, tmp_path: Path, name: str) -> None:
    new = save_tiny_model(tmp_path, "qwen2", hidden=256, sharpness=4.0, seed=1)
    for simulate in (True, False):
        llm = start(model, settings(name, simulate=simulate), dtype="bfloat16")
        addresses = [tensor.data_ptr() for tensor in worker_state(llm).twin.tensors()]
        llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(new),))
        assert [tensor.data_ptr() for tensor in worker_state(llm).twin.tensors()] == addresses
        fresh = start(new, settings(name, simulate=simulate), dtype="bfloat16")
        ours, wanted = list(worker_state(llm).twin.tensors()), list(worker_state(fresh).twin.tensors())
        owned = [t for t, w in zip(ours, wanted, strict=True) if t.numel()]
        assert owned
        if name != "int8" or simulate:  # oneDNN keeps int8 weights behind a pointer: compared by their product below
            assert all(torch.equal(t, w) for t, w in zip(ours, wanted, strict=True))
        x = torch.randn(3, 256, dtype=torch.bfloat16)
        for a, b in zip(worker_state(llm).twin.quantized, worker_state(fresh).twin.quantized, strict=True):
            rows = x if a.source.weight.shape[1] == 256 else torch.cat([x, x], dim=1)
            assert torch.equal(a.method.apply(a.layer, rows), b.method.apply(b.layer, rows))


def test_format_without_a_kernel_here_is_refused_by_name_or_decodes_plainly(model: Path) -> None:
    with pytest.raises(Exception, match="format 'fp8_block' has no kernel here") as caught:
        start(model, settings("fp8_block"))
    assert "runs on NVIDIA" in str(caught.value)
    llm = start(model, settings("fp8_block") | {"strict": False})
    assert not worker_state(llm).ready
    assert "decoding plainly, format 'fp8_block' has no kernel here" in stats(llm)["drafter_problem"]
    assert generate(llm, BATCH, 8) == generate(start(model), BATCH, 8)


def test_layers_whose_shape_the_format_refuses_are_shared_with_the_policy(tmp_path: Path) -> None:
    llm = start(save_tiny_model(tmp_path, "qwen2", hidden=128), settings("fp8_block", simulate=True))
    state = worker_state(llm)
    paths = {layer.path for layer in state.twin.quantized}
    assert "model.layers.0.self_attn.qkv_proj" not in paths  # 64 rows of keys are half a block
    assert {"model.layers.0.mlp.gate_up_proj", "model.layers.0.self_attn.o_proj", "lm_head"} <= paths
    assert state.twin.model.model.layers[0].self_attn.qkv_proj is state._target.model.layers[0].self_attn.qkv_proj
    assert acceptance(llm)[0] == generate(start(tmp_path), BATCH, 40)


def test_head_is_quantized_unless_switched_off(model: Path) -> None:
    llm = start(model, settings("int8", lm_head=False))
    state = worker_state(llm)
    assert state.twin.model.lm_head is state._target.lm_head
    assert "lm_head" not in {layer.path for layer in state.twin.quantized}
    with_head = acceptance(start(model, settings("int4", simulate=True)))[1]
    without = acceptance(start(model, settings("int4", simulate=True, lm_head=False)))[1]
    assert without >= with_head - 0.02
