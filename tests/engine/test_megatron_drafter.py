"""The whole way of a drafter from Megatron shards: four ranks quantize, a refit stream, the real engine drafts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.megatron import DrafterStream
from tests.engines import core_of, difference, generate, prompts, start, stats, worker_state
from tests.megatron.checkpoints import save_policy
from tests.megatron.shapes import VOCAB, Shape, hf_weights
from tests.megatron.worlds import Case, model_of, run

pytestmark = pytest.mark.engine
SHAPE = Shape()
BATCH = prompts(6, VOCAB)
FORMAT = "int4"


def send(case: Case) -> str:
    """Rank 0 writes down what it would send beside the policy."""
    model = model_of(case, hf_weights(case.shape, seed=1))
    stream = {name: tensor.contiguous() for name, tensor in DrafterStream(model, FORMATS[FORMAT], VOCAB)}
    if torch.distributed.get_rank() == 0:
        save_file(stream, str(_file))
    return ""


_file = Path("drafter.safetensors")  # in the processes' working directory


def settings(quantize_on: str) -> dict[str, Any]:
    return {
        "drafter": {"format": FORMAT},
        "refit": {"quantize_on": quantize_on},
        "draft_length": {"max": 3},
        "gate": {"mode": "fixed", "draft_length": 3},
        "strict": True,
    }


def greedy(llm: Any) -> tuple[list[list[int]], float]:
    llm.reset_prefix_cache()
    before = stats(llm)
    tokens = generate(llm, BATCH, 32)
    after = stats(llm)
    return tokens, difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")


def test_drafter_from_megatron_shards_equals_the_engines_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path)
    run({"send": (send, Case(SHAPE, tensor=2, pipeline=2))}, tmp_path)
    drafter, policy = load_file(str(_file)), hf_weights(SHAPE, seed=1)
    old = save_policy(tmp_path_factory.mktemp("old"), SHAPE, seed=0)

    theirs = start(old, settings("trainer"), dtype="bfloat16")
    left: list[str] = []
    for layer in worker_state(theirs).twin.quantized:
        layer.method.refill = lambda source, path=layer.path: left.append(path)
    core_of(theirs).collective_rpc("efficientrollout_load_weights", args=(policy | drafter,))
    assert stats(theirs)["drafter_problem"] == ""
    assert left == []  # every layer came from the trainer

    ours = start(old, settings("engine"), dtype="bfloat16")
    core_of(ours).collective_rpc("efficientrollout_load_weights", args=(policy,))
    for a, b in zip(worker_state(theirs).twin.tensors(), worker_state(ours).twin.tensors(), strict=True):
        assert torch.equal(a, b)
    assert greedy(theirs) == greedy(ours)
    assert greedy(theirs)[1] > 0.3
