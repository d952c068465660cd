"""The twin on the real model runner V2, temperature above 0: samples follow the policy's exact joint distribution.

In a process of its own: `TRITON_INTERPRET=1 python -m pytest tests/v2/test_twin_sampling.py`.
"""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.v2.interpreted import install_or_skip

install_or_skip()  # before anything imports vLLM

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample  # noqa: E402

from nemo_rl_efficientrollout.engine import speculator_v2  # noqa: E402
from nemo_rl_efficientrollout.engine.draft_logits import DraftLogits  # noqa: E402
from nemo_rl_efficientrollout.engine.workers import Drafters  # noqa: E402
from tests.engines import core_of, difference, set_gate, start, stats, worker_state  # noqa: E402
from tests.exact import Tokens, joint, p_value  # noqa: E402
from tests.models import save_tiny_model  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
VOCABULARY, PER_REQUEST, SAMPLES = 4, 100, 400
ALPHA, BROKEN = 1e-4, 1e-5
PROMPT = [1, 3, 2, 0, 3]
COLD = 0.4
PLAIN_DRAW: dict[str, Any] = (
    {"is_drafting": False} if "is_drafting" in inspect.signature(gumbel_sample).parameters else {}
)
"""How the target draws; 0.25.1 knows no other way."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY, hidden=64, sharpness=1.5)


@pytest.fixture(scope="module")
def exact(model: Path) -> dict[float, dict[Tokens, float]]:
    return {temperature: joint(model, PROMPT, 3, temperature) for temperature in (1.0, COLD)}


def start_twin(model: Path, format_name: str, asynchronous: bool) -> LLM:
    settings = {
        "drafter": {"format": format_name},
        "draft_length": {"max": 3, "max_requests": PER_REQUEST},
        "strict": True,
    }
    return start(model, settings, async_scheduling=asynchronous, max_num_seqs=PER_REQUEST, max_model_len=64)


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, LLM]:
    engines = {
        "always right": start_twin(model, "bf16", asynchronous=True),
        "often wrong": start_twin(model, "int8", asynchronous=True),
        "often wrong, synchronous": start_twin(model, "int8", asynchronous=False),
    }
    for name in ("often wrong", "often wrong, synchronous"):
        add_noise(engines[name])
    return engines


def add_noise(llm: LLM) -> None:
    """Most of what this drafter drafts must be recovered from the residual."""
    torch.manual_seed(0)
    with torch.inference_mode():
        for layer in worker_state(llm).twin.quantized:
            weight = layer.source.weight
            layer.fill([layer.method.format.quantize(weight + 0.7 * weight.std() * torch.randn_like(weight))])


def sample(llm: LLM, temperatures: tuple[float, ...] = (1.0,), count: int = SAMPLES) -> dict[float, "Counter[Tokens]"]:
    """Counts of the first three tokens by temperature. Requests of all temperatures share every batch."""
    params = [
        SamplingParams(
            n=PER_REQUEST // len(temperatures), temperature=t, max_tokens=3, ignore_eos=True, detokenize=False
        )
        for _ in range(count // PER_REQUEST)
        for t in temperatures
    ]
    outputs = llm.generate([{"prompt_token_ids": PROMPT}] * len(params), params, use_tqdm=False)  # type: ignore[arg-type]
    counts: dict[float, Counter[Tokens]] = {t: Counter() for t in temperatures}
    for param, output in zip(params, outputs, strict=True):
        counts[param.temperature].update(tuple(completion.token_ids) for completion in output.outputs)
    return counts


def accepted_share(llm: LLM, before: dict[str, Any]) -> float:
    after = stats(llm)
    return difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")


TWO, ANY = {"mode": "fixed", "draft_length": 2}, {"mode": "random", "seed": 3}


@pytest.mark.parametrize(
    ("engine", "gate"),
    [("always right", TWO), ("often wrong", TWO), ("often wrong", ANY), ("often wrong, synchronous", ANY)],
    ids=["right-2", "wrong-2", "wrong-random", "wrong-random-synchronous"],
)
def test_joint_distribution_is_the_policys(engines: Any, exact: Any, engine: str, gate: dict[str, Any]) -> None:
    llm = engines[engine]
    set_gate(llm, **gate)
    before = stats(llm)
    counts = sample(llm)[1.0]
    share = accepted_share(llm, before)
    assert (share > 0.99) if engine == "always right" else (0.2 < share < 0.9), share
    assert p_value(counts, exact[1.0]) > ALPHA


def test_every_request_keeps_its_own_temperature(engines: Any, exact: Any) -> None:
    llm = engines["often wrong"]
    set_gate(llm, mode="fixed", draft_length=2)
    counts = sample(llm, (1.0, COLD))
    assert {t: p_value(counts[t], exact[t]) > ALPHA for t in counts} == {1.0: True, COLD: True}
    assert p_value(counts[1.0], exact[COLD]) < BROKEN  # the two can be told apart


def forget_who_drafted(original: Any) -> Any:
    """The distributions of another request."""

    def index(self: Any, states: torch.Tensor) -> Any:
        rows, drafted = original(self, states)
        owned = int((self.owner >= 0).sum())
        return torch.where(drafted, (rows + 1) % owned, rows), drafted

    return index


def claim_certainty(original: Any) -> Any:
    """Every draft is said to have been drawn with probability 1: the rule for drafters without distributions."""

    def draw(logits: Any, index: Any, temperature: Any, seeds: Any, positions: Any, cache: Any, column: Any) -> Any:
        tokens = original(logits, index, temperature, seeds, positions, cache, column)
        cache[: len(tokens), int(column)] = 0.0
        return tokens

    return draw


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        pytest.param(DraftLogits, "index", forget_who_drafted, id="another-s-distributions"),
        pytest.param(speculator_v2.present, "draw_drafts", claim_certainty, id="wrong-distributions"),
    ],
)
def test_a_broken_chain_is_caught(
    engines: Any, exact: Any, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: Any
) -> None:
    llm = engines["often wrong"]
    set_gate(llm, mode="fixed", draft_length=2)
    monkeypatch.setattr(owner, name, fault(getattr(owner, name)))
    assert p_value(sample(llm, count=2 * SAMPLES)[1.0], exact[1.0]) < BROKEN


def test_sure_drafts_of_a_drafter_that_fell_behind_are_exact(engines: Any, exact: Any) -> None:
    llm = engines["often wrong"]
    set_gate(llm, mode="fixed", draft_length=2)
    refit = worker_state(llm).refit
    refit.begin()
    before = stats(llm)
    core_of(llm).scheduler._drafters = Drafters(True, 0, 0, 0.0)  # as if it had not heard of it
    counts = sample(llm)[1.0]
    assert difference(stats(llm), before, "drafted_tokens") > 0
    assert p_value(counts, exact[1.0]) > ALPHA
    refit.succeed(0.0)


def test_drafts_do_not_share_their_noise_with_verification() -> None:
    """With the same noise, equal distributions would give equal tokens: what vLLM 0.25.1 does by itself."""
    rows = 100
    logits = torch.randn(1, VOCABULARY).repeat(rows, 1)
    index, column = torch.arange(rows), torch.zeros((), dtype=torch.int64)
    temperature, seeds, positions = torch.ones(rows), torch.arange(rows) + 7, torch.arange(rows) + 5
    cache = torch.zeros(rows, 1, VOCABULARY)
    drafts = speculator_v2.present.draw_drafts(logits, index, temperature, seeds, positions, cache, column)
    again = speculator_v2.present.draw_drafts(logits, index, temperature, seeds, positions, cache, column)
    verified = gumbel_sample(logits, index, temperature, seeds, positions, True, **PLAIN_DRAW)
    assert torch.equal(drafts, again)
    assert torch.equal(cache[:, 0], logits)
    agreement = (drafts == verified).float().mean().item()
    by_chance = logits[0].softmax(-1).square().sum().item()
    assert abs(agreement - by_chance) < 0.25, (agreement, by_chance)
    assert agreement < 0.95
