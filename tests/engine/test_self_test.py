"""The start-up test: passes on this vLLM, leaves no trace, and turns drafting off where something is unexpected."""

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM

from nemo_rl_efficientrollout.engine import self_speculation, self_test
from nemo_rl_efficientrollout.engine.proposer_v1 import TwinProposer
from nemo_rl_efficientrollout.errors import UnsupportedError
from tests.engines import core_of, generate, prompts, runner_of, start, stats
from tests.models import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.engine
BATCH = prompts(4, VOCABULARY)
ALWAYS = {"gate": {"mode": "fixed", "draft_length": 3}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), sharpness=4.0)


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, ALWAYS)


def test_a_policy_accepts_all_of_its_own_drafts(llm: LLM) -> None:
    drafted, accepted = self_test.measure(core_of(llm))
    assert drafted >= self_test.NEW_TOKENS - 4
    assert accepted == drafted


def test_leaves_no_trace(model: Path) -> None:
    llm = start(model, ALWAYS)
    answer = stats(llm)
    assert (answer["drafts"], answer["decode_steps"], answer["drafter_problem"]) == (0, 0, "")
    core, drafter = core_of(llm), runner_of(llm).drafter
    assert drafter.model is drafter.state.twin.model
    assert core.scheduler.gate.choose(None) == 3
    assert core.scheduler.kv_cache_manager.usage == 0
    assert not core.scheduler.has_requests()


def drafting_one_position_too_far(original: Any) -> Any:
    def advance(proposer: Any, metadata: Any, positions: torch.Tensor) -> torch.Tensor:
        return original(proposer, metadata, positions + 1)

    return advance


@pytest.fixture
def wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwinProposer, "_advance", drafting_one_position_too_far(TwinProposer._advance))


def test_wrong_positions_mean_plain_decoding_and_one_clear_line(
    model: Path, llm: LLM, wrong_positions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = []
    monkeypatch.setattr(self_speculation.logger, "warning", lambda *a: warnings.append(a[0] % a[1:]))
    broken = start(model, ALWAYS)
    answer = stats(broken)
    assert "the start-up test failed" in answer["drafter_problem"]
    assert len(warnings) == 1
    assert warnings[0].startswith("EfficientRollout is off, decoding plainly: the start-up test failed, ")
    assert generate(broken, BATCH, 24) == generate(llm, BATCH, 24)
    assert stats(broken)["drafts"] == 0


def test_strict_settings_make_it_an_error(model: Path, wrong_positions: None) -> None:
    with pytest.raises(UnsupportedError, match=r"start-up test failed, [0-9]+ of [0-9]+ drafts"):
        start(model, ALWAYS | {"strict": True})


def test_is_left_out_where_contexts_are_too_short_for_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "measure", lambda core: pytest.fail("was run"))
    short = start(model, ALWAYS, max_model_len=self_test.NEW_TOKENS)
    assert stats(short)["drafter_problem"] == ""
