"""A drafter that the trainer quantized: what arrives is what the engine would have made itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.packing import PREFIX, named_parts, parts
from tests.engines import core_of, difference, generate, prompts, start, stats, worker_state
from tests.models import save_tiny_model, weights_of
from tests.trainer import Stream, with_drafter

pytestmark = pytest.mark.engine
VOCABULARY = 250  # vLLM pads it to 256
BATCH = prompts(8, VOCABULARY)


def settings(name: str, quantize_on: str, simulate: bool) -> dict[str, Any]:
    return {
        "drafter": {"format": name, "simulate": simulate},
        "refit": {"quantize_on": quantize_on},
        "draft_length": {"max": 3},
        "gate": {"mode": "fixed", "draft_length": 3},
        "strict": True,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp
    return {
        seed: save_tiny_model(folder("qwen2"), "qwen2", vocabulary=VOCABULARY, seed=seed, hidden=256) for seed in (0, 1)
    }


def refit(llm: Any, stream: Stream) -> None:
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(stream,))
    llm.reset_prefix_cache()


def acceptance(llm: Any) -> tuple[list[list[int]], float]:
    before = stats(llm)
    tokens = generate(llm, BATCH, 40)
    after = stats(llm)
    return tokens, difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")


@pytest.mark.parametrize(
    ("name", "simulate"),
    [
        ("int8", False),
        ("int4", True),
        ("int4_symmetric", True),
        ("fp8", True),
    ],
)
def test_drafter_from_the_trainer_equals_the_engines_own(models: Any, name: str, simulate: bool) -> None:
    old, new = models[0], models[1]
    stream = with_drafter(weights_of(new), name)
    theirs = start(old, settings(name, "trainer", simulate))
    quantized: list[str] = []
    for layer in worker_state(theirs).twin.quantized:
        layer.method.refill = lambda source, path=layer.path: quantized.append(path)
    refit(theirs, stream)
    assert quantized == []  # nothing was left for the engine
    assert stats(theirs)["drafter_problem"] == ""
    ours = start(old, settings(name, "engine", simulate))
    refit(ours, weights_of(new))
    assert acceptance(theirs) == acceptance(ours)
    for a, b in zip(worker_state(theirs).twin.tensors(), worker_state(ours).twin.tensors(), strict=True):
        assert torch.equal(a, b)
    assert acceptance(theirs)[0] == generate(start(new), BATCH, 40)


def test_what_the_trainer_leaves_out_the_engine_quantizes(models: Any) -> None:
    llm = start(models[0], settings("int8", "trainer", False))
    refit(llm, weights_of(models[1]))
    assert stats(llm)["drafter_problem"] == ""
    fresh = start(models[1], settings("int8", "engine", False))
    assert acceptance(llm) == acceptance(fresh)


def test_what_the_drafter_shares_with_the_policy_may_come_in_vain(models: Any) -> None:
    shared = {"drafter": {"format": "int8", "lm_head": False}}
    llm = start(models[0], settings("int8", "trainer", False) | shared)
    refit(llm, with_drafter(weights_of(models[1]), "int8"))  # a head among them
    assert stats(llm)["drafter_problem"] == ""
    fresh = start(models[1], settings("int8", "engine", False) | shared)
    assert acceptance(llm) == acceptance(fresh)


@pytest.mark.parametrize("fault", ["missing part", "unknown layer", "wrong shape", "other model", "not finite"])
def test_a_faulty_drafter_is_named_and_spares_the_policy(models: Any, fault: str) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    stream = with_drafter(weights_of(models[1]), "int8")
    expected = name
    if fault == "missing part":
        del stream[f"{PREFIX}{name}.scale"]
    elif fault == "unknown layer":
        expected = "model.layers.7.mlp.up_proj.weight"
        stream |= dict(named_parts(expected, parts(FORMATS["int8"], FORMATS["int8"].quantize(torch.ones(32, 32)))))
    elif fault == "other model":
        expected = "qkv_proj"
        stream |= dict(named_parts(name, parts(FORMATS["int8"], FORMATS["int8"].quantize(torch.ones(32, 256)))))
    elif fault == "wrong shape":
        stream[f"{PREFIX}{name}.scale"] = torch.ones(3, 1)
    else:
        expected = "qkv_proj"
        stream[f"{PREFIX}{name}.scale"] = torch.full_like(stream[f"{PREFIX}{name}.scale"], float("nan"))
    llm = start(models[0], settings("int8", "trainer", False) | {"strict": False})
    refit(llm, stream)
    assert expected in stats(llm)["drafter_problem"]
    assert not worker_state(llm).ready
    assert generate(llm, BATCH, 40) == generate(start(models[1]), BATCH, 40)


def test_a_policy_whose_drafter_was_given_up_is_refitted_all_the_same(models: Any) -> None:
    llm = start(models[0], settings("int8", "trainer", False) | {"strict": False})
    worker_state(llm).decode_plainly("a test")
    refit(llm, with_drafter(weights_of(models[1]), "int8"))
    assert generate(llm, BATCH, 40) == generate(start(models[1]), BATCH, 40)
