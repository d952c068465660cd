"""Mixtures of experts: the drafter's experts are quantized copies, its routers are the policy's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from tests.engines import core_of, difference, generate, prompts, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.trainer import with_drafter

pytestmark = pytest.mark.engine
BATCH = prompts(8, VOCABULARY)
FAMILIES = ("qwen3_moe", "mixtral")


def settings(name: str, **drafter: Any) -> dict[str, Any]:
    return {
        "drafter": {"format": name, **drafter},
        "draft_length": {"max": 3},
        "gate": {"mode": "fixed", "draft_length": 3},
        "strict": True,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    return {
        (family, seed): save_tiny_model(tmp_path_factory.mktemp(family), family, seed=seed)
        for family in FAMILIES
        for seed in (0, 1)
    }


def acceptance(llm: Any) -> tuple[list[list[int]], float]:
    llm.reset_prefix_cache()
    before = stats(llm)
    output = generate(llm, BATCH, 40)
    after = stats(llm)
    return output, difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")


@pytest.mark.parametrize("family", FAMILIES)
def test_unquantized_drafter_of_a_mixture_is_accepted_fully(models: Any, family: str) -> None:
    plain = generate(start(models[family, 0]), BATCH, 40)
    assert acceptance(start(models[family, 0], settings("bf16"))) == (plain, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("eager", [True, False])
def test_quantized_experts_draft_and_are_verified_exactly(models: Any, family: str, eager: bool) -> None:
    plain = generate(start(models[family, 0], enforce_eager=eager), BATCH, 40)
    llm = start(models[family, 0], settings("int4", simulate=True), enforce_eager=eager)
    output, rate = acceptance(llm)
    assert output == plain
    assert 0.2 < rate < 1.0
    twin = worker_state(llm).twin
    experts = [layer for layer in twin.quantized if layer.path.endswith("routed_experts")]
    assert len(experts) == 2
    for layer in experts:
        for name in ("w13_weight", "w2_weight"):
            own, theirs, form = getattr(layer.layer, name), getattr(layer.source, name), FORMATS["int4"]
            for expert in range(4):
                assert torch.equal(own[expert], form.dequantize(form.quantize(theirs[expert])))
    routers = [path for path, module in twin.model.named_modules() if path.endswith(".gate")]
    assert routers
    for path in routers:
        assert twin.model.get_submodule(path) is worker_state(llm)._target.get_submodule(path)


@pytest.mark.parametrize(("family", "eager"), [("qwen3_moe", True), ("mixtral", True), ("qwen3_moe", False)])
def test_refit_reaches_every_expert(models: Any, family: str, eager: bool) -> None:
    new = models[family, 1]
    llm = start(models[family, 0], settings("int8", simulate=True), enforce_eager=eager)
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights_of(new),))
    assert stats(llm)["drafter_problem"] == ""
    fresh = start(new, settings("int8", simulate=True), enforce_eager=eager)
    assert acceptance(llm) == acceptance(fresh)
    assert acceptance(llm)[0] == generate(start(new, enforce_eager=eager), BATCH, 40)
    for ours, theirs in zip(worker_state(llm).twin.tensors(), worker_state(fresh).twin.tensors(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_from_the_trainer_equal_the_engines_own(models: Any, family: str) -> None:
    new = weights_of(models[family, 1])
    theirs = start(models[family, 0], settings("int4", simulate=True) | {"refit": {"quantize_on": "trainer"}})
    ours = start(models[family, 0], settings("int4", simulate=True))
    core_of(theirs).collective_rpc("efficientrollout_load_weights", args=(with_drafter(new, "int4"),))
    core_of(ours).collective_rpc("efficientrollout_load_weights", args=(new,))
    assert stats(theirs)["drafter_problem"] == ""
    for a, b in zip(worker_state(theirs).twin.tensors(), worker_state(ours).twin.tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_expert_is_named(models: Any) -> None:
    weights = weights_of(models["qwen3_moe", 1])
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    del weights[name]
    llm = start(models["qwen3_moe", 0], settings("int8", simulate=True))
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights,))
    assert name in stats(llm)["drafter_problem"]
    assert not worker_state(llm).ready


def test_experts_without_a_kernel_are_refused_by_name(models: Any) -> None:
    with pytest.raises(Exception, match="experts have no kernel in format 'int8'"):
        start(models["mixtral", 0], settings("int8"))
