"""Two ranks: they draw the same drafts, give the tokens of one, and follow a refit together."""

from pathlib import Path
from typing import Any

import pytest
from vllm import LLM

from tests.engines import drafted_and_accepted, generate, prompts, set_gate, start, stats
from tests.models import VOCABULARY, save_tiny_model, weights_of

pytestmark = pytest.mark.engine
BATCH = prompts(8, VOCABULARY)
NEW_TOKENS, MAX = 48, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("new"), seed=1)


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, LLM]:
    def build(name: str) -> LLM:
        settings = {"drafter": {"format": name}, "draft_length": {"max": MAX}, "strict": True}
        return start(model, settings, tensor_parallel_size=2)

    return {"bf16": build("bf16"), "int8": build("int8")}


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_greedy_tokens_are_those_of_plain_decoding(engines: Any, name: str) -> None:
    llm = engines[name]
    set_gate(llm, mode="off")
    expected = generate(llm, BATCH, NEW_TOKENS)
    set_gate(llm, mode="random")
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert (0 < accepted < drafted) if name == "int8" else (accepted == drafted > 0)


def test_ranks_draw_the_same_drafts(engines: Any) -> None:
    """Each rank holds half of every layer: drafts that differ would be halves of different tokens, and rejected."""
    llm = engines["bf16"]
    set_gate(llm, mode="fixed", draft_length=MAX)
    before = stats(llm)
    generate(llm, BATCH, NEW_TOKENS, temperature=1.0)
    drafted, accepted = drafted_and_accepted(llm, before)
    assert accepted == drafted > 0


def test_every_rank_follows_a_refit(engines: Any, model: Path, new: Path) -> None:
    llm = engines["int8"]
    answers = llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(new),))
    assert [(answer["policy_version"], answer["drafter_version"]) for answer in answers] == [(1, 1)] * 2
    set_gate(llm, mode="off")
    expected = generate(llm, BATCH, NEW_TOKENS)
    assert expected == generate(start(new), BATCH, NEW_TOKENS)
    set_gate(llm, mode="fixed", draft_length=MAX)
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert accepted > 0.5 * drafted > 0


def test_one_rank_that_fell_behind_keeps_all_from_drafting(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_rl_efficientrollout.engine.workers import Workers
    from tests.engines import core_of

    llm = engines["bf16"]
    set_gate(llm, mode="fixed", draft_length=MAX)
    executor = core_of(llm).model_executor
    ask = executor.collective_rpc

    def second_is_behind(method: Any, *args: Any, **kwargs: Any) -> Any:
        answers = ask(method, *args, **kwargs)
        if method == "efficientrollout_stats":
            answers[1]["drafter_problem"] = "behind"
        return answers

    monkeypatch.setattr(executor, "collective_rpc", second_is_behind)
    assert not Workers(executor).drafters().fit
    before = stats(llm)
    generate(llm, BATCH, 8)
    assert drafted_and_accepted(llm, before) == (0, 0)
