"""New weights in a live engine: the policy serves them, the drafter follows, and until it has, γ is 0."""

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM

from tests.engines import difference, generate, prompts, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model, weights_of

pytestmark = pytest.mark.engine
BATCH = prompts(16, VOCABULARY)
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": 4}, "gate": {"mode": "fixed", "draft_length": 4}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def build(family: str, tied: bool, seed: int) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp(family), family, tied=tied, seed=seed)

    return build


def refit(llm: LLM, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return llm.collective_rpc("efficientrollout_load_weights", args=(weights,))[0]


def acceptance(llm: LLM) -> tuple[list[list[int]], float | None]:
    """Greedy tokens of the batch and the acceptance rate on the way, None without a draft."""
    before = stats(llm)
    tokens = generate(llm, BATCH, 48)
    after = stats(llm)
    drafted = difference(after, before, "drafted_tokens")
    return tokens, difference(after, before, "accepted_tokens") / drafted if drafted else None


@pytest.mark.parametrize(
    ("family", "tied", "eager"),
    [
        ("qwen3", False, True),
        ("qwen2", True, True),  # biases, and a head that is the embedding
        ("llama", True, True),
        pytest.param("qwen3", False, False, id="qwen3-compiled"),
    ],
)
def test_refitted_engine_equals_a_fresh_one(models: Any, family: str, tied: bool, eager: bool) -> None:
    old, new = models(family, tied, 0), models(family, tied, 1)
    llm = start(old, SETTINGS, enforce_eager=eager)
    tokens_before, _ = acceptance(llm)
    answer = refit(llm, weights_of(new))
    assert answer["policy_version"] == answer["drafter_version"] == 1
    assert answer["requantize_seconds"] > 0

    tokens, rate = acceptance(llm)
    fresh_tokens, fresh_rate = acceptance(start(new, SETTINGS, enforce_eager=eager))
    assert tokens != tokens_before
    assert tokens == fresh_tokens == generate(start(new), BATCH, 48)
    assert rate == fresh_rate
    assert rate is not None
    assert rate > 0.8


def test_stale_drafter_never_drafts_and_requantizing_heals_it(models: Any) -> None:
    old, new = models("qwen3", False, 0), models("qwen3", False, 1)
    llm = start(old, SETTINGS)
    state = worker_state(llm)
    complete = state._complete
    state._complete = lambda: None  # the fault: a refit that forgets the drafter
    refit(llm, weights_of(new))
    state._complete = complete

    llm.collective_rpc("efficientrollout_timeline")
    tokens, rate = acceptance(llm)
    assert rate is None  # γ stayed 0
    assert not any(llm.collective_rpc("efficientrollout_timeline")[0]["asked"])  # and no worker was asked to draft
    assert tokens == generate(start(new), BATCH, 48)
    assert (stats(llm)["policy_version"], stats(llm)["drafter_version"]) == (1, 0)

    answer = llm.collective_rpc("efficientrollout_requantize")[0]
    assert answer["policy_version"] == answer["drafter_version"] == 1
    tokens_again, rate = acceptance(llm)
    assert tokens_again == tokens
    assert rate is not None
    assert rate > 0.8


def test_weights_loaded_behind_our_back_are_noticed(models: Any) -> None:
    llm = start(models("qwen3", False, 0), SETTINGS)
    state = worker_state(llm)
    state._target.load_weights(iter([]))  # how NeMo-RL's workers change weights
    assert not state.ready
    assert acceptance(llm)[1] is None


def test_refit_that_dies_half_way_leaves_plain_decoding(models: Any) -> None:
    old, new = models("qwen3", False, 0), models("qwen3", False, 1)
    llm = start(old, SETTINGS)
    good = weights_of(new)
    bad = dict(good)
    bad["model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 3)
    with pytest.raises(Exception, match="size"):
        refit(llm, bad)
    assert stats(llm)["policy_version"] != stats(llm)["drafter_version"]
    assert acceptance(llm)[1] is None

    answer = refit(llm, good)
    assert answer["policy_version"] == answer["drafter_version"]
    tokens, rate = acceptance(llm)
    assert rate is not None
    assert tokens == generate(start(new), BATCH, 48)


def test_refit_replaces_every_drafter_tensor_in_place(models: Any) -> None:
    old, new = models("qwen3", False, 0), models("qwen3", False, 1)
    llm = start(old, SETTINGS)
    twin = worker_state(llm).twin
    names = {name for name, module in twin.model.named_modules() if any(module is own.layer for own in twin.quantized)}
    linears = {f"model.layers.{layer}.{part}" for layer in range(2) for part in PARTS}
    assert names == linears | {"lm_head"}
    tensors = list(twin.tensors())
    addresses = [tensor.data_ptr() for tensor in tensors]
    values = [tensor.clone() for tensor in tensors]
    refit(llm, weights_of(new))
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    assert not any(torch.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))


PARTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def test_prefix_cache_is_dropped_at_refit(models: Any) -> None:
    old, new = models("qwen3", False, 0), models("qwen3", False, 1)
    batch = prompts(4, VOCABULARY, seed=9, shortest=300, longest=320)
    llm = start(old, SETTINGS)
    generate(llm, batch, 8)
    refit(llm, weights_of(new))
    assert generate(llm, batch, 32) == generate(start(new), batch, 32)
