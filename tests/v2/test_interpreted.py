"""The harness itself: model runner V2 in the interpreter generates what it must, before anything of ours is added.

Greedy output equals that of vLLM's stock CPU runner token for token; sampled output follows the model's exact
distribution. Both hold for stock speculation too, with a drafter that is always right and with one that is often wrong.

In a process of its own: `TRITON_INTERPRET=1 python -m pytest tests/v2/test_interpreted.py`.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.v2.interpreted import install_or_skip

install_or_skip()  # before anything imports vLLM

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.worker.gpu.model_runner import GPUModelRunner  # noqa: E402
from vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator import StandaloneARSpeculator  # noqa: E402

from tests.engines import core_of, generate, prompts, runner_of, start  # noqa: E402
from tests.exact import joint, p_value  # noqa: E402
from tests.models import save_tiny_model  # noqa: E402
from tests.v2 import stock  # noqa: E402

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, for the overflow that hashing consists of
]
VOCABULARY = 64
FEW = 4
SAMPLES = 600
ALPHA = 1e-4
BROKEN = 1e-9
CROWDED: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "max_model_len": 128}
"""Fewer slots than requests, and prompts longer than what a step admits."""
BATCH = prompts(7, VOCABULARY)
LENGTHS = [12, 5, 9, 1, 12, 7, 12]
ROOMY: dict[str, Any] = {"max_num_seqs": 200, "max_model_len": 64}
PROMPT = {"prompt_token_ids": [1, 3, 2, 0, 3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY, hidden=64)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("other"), vocabulary=VOCABULARY, hidden=64, seed=1)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    return stock.greedy(model, BATCH, LENGTHS, **CROWDED)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("small"), vocabulary=FEW, hidden=64)


@pytest.fixture(scope="module")
def small_other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("small_other"), vocabulary=FEW, hidden=64, seed=1)


def drafted_by(drafter: Path) -> dict[str, Any]:
    """Stock speculation with a separate draft model."""
    return {
        "speculative_config": {
            "method": "draft_model",
            "model": str(drafter),
            "num_speculative_tokens": 3,
            "draft_sample_method": "probabilistic",
        }
    }


def drafted_and_accepted(llm: LLM) -> tuple[int, int]:
    """Tokens so far, of all engines of this process: their counters are one."""
    values = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return values["vllm:spec_decode_num_draft_tokens"], values["vllm:spec_decode_num_accepted_tokens"]


def sample(llm: LLM) -> Counter[tuple[int, ...]]:
    params = SamplingParams(n=200, temperature=1.0, max_tokens=3, ignore_eos=True, detokenize=False)
    outputs = llm.generate([PROMPT] * (SAMPLES // 200), params, use_tqdm=False)  # type: ignore[arg-type]
    return Counter(tuple(completion.token_ids) for output in outputs for completion in output.outputs)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_plain_greedy_decoding_equals_the_stock_runners(
    model: Path, expected: list[list[int]], asynchronous: bool
) -> None:
    llm = start(model, async_scheduling=asynchronous, **CROWDED)
    assert isinstance(runner_of(llm), GPUModelRunner)
    assert isinstance(core_of(llm).scheduler, AsyncScheduler) == asynchronous
    assert generate(llm, BATCH, LENGTHS) == expected


@pytest.mark.parametrize("asynchronous", [False, True])
def test_its_own_model_as_drafter_is_always_right(model: Path, expected: list[list[int]], asynchronous: bool) -> None:
    llm = start(model, async_scheduling=asynchronous, **drafted_by(model), **CROWDED)
    assert isinstance(runner_of(llm).speculator, StandaloneARSpeculator)
    before = drafted_and_accepted(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    drafted, accepted = np.subtract(drafted_and_accepted(llm), before)
    assert drafted == accepted > 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_another_drafter_does_not_change_greedy_output(
    model: Path, other: Path, expected: list[list[int]], asynchronous: bool
) -> None:
    llm = start(model, async_scheduling=asynchronous, **drafted_by(other), **CROWDED)
    before = drafted_and_accepted(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    drafted, accepted = np.subtract(drafted_and_accepted(llm), before)
    assert drafted > accepted


def test_plain_sampling_follows_the_model(small: Path, small_other: Path) -> None:
    counts = sample(start(small, async_scheduling=True, **ROOMY))
    assert p_value(counts, joint(small, PROMPT["prompt_token_ids"], 3)) > ALPHA
    assert p_value(counts, joint(small_other, PROMPT["prompt_token_ids"], 3)) < BROKEN


@pytest.mark.parametrize(("own", "asynchronous"), [(True, False), (False, True)])
def test_speculative_sampling_follows_the_model(small: Path, small_other: Path, own: bool, asynchronous: bool) -> None:
    drafter = small if own else small_other
    llm = start(small, async_scheduling=asynchronous, **drafted_by(drafter), **ROOMY)
    before = drafted_and_accepted(llm)
    counts = sample(llm)
    drafted, accepted = np.subtract(drafted_and_accepted(llm), before)
    assert 0.99 < accepted / drafted <= 1 if own else 0.1 < accepted / drafted < 0.9, accepted / drafted
    assert p_value(counts, joint(small, PROMPT["prompt_token_ids"], 3)) > ALPHA
