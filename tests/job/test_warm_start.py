"""The built-in model: readable text, even lengths, and a cache that is never half-written."""

import random
from pathlib import Path
from statistics import median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from examples.grpo_math import warm_start
from examples.grpo_math.arithmetic import LONGEST, Sum, arithmetic_problems
from examples.grpo_math.problems import Problem
from examples.grpo_math.prompts import BARE, longest_prompt
from examples.grpo_math.reward import reward
from examples.grpo_math.warm_start import WarmStart, build_tokenizer, warm_started_model
from nemo_rl_efficientrollout.errors import UserError

TINY = WarmStart(steps=2, batch=4)
TOKENIZER = build_tokenizer()
sums = st.lists(st.integers(0, 9), min_size=2, max_size=LONGEST).map(lambda terms: Sum(tuple(terms)))


@given(sums, st.integers())
def test_text_survives_the_tokenizer_and_care_is_rewarded(terms: Sum, seed: int) -> None:
    careful = terms.solution(random.Random(seed), carelessness=0.0)
    for text in (terms.text, careful, terms.guess()):
        ids = TOKENIZER.encode(text)
        assert TOKENIZER.unk_token_id not in ids
        assert TOKENIZER.decode(ids) == text
    answer = terms.problem(1).answer
    assert reward(careful, answer) == 1.0
    assert reward(terms.guess(), answer) == float(sum(terms.terms[:-1]) == 0)


def test_a_slip_spoils_the_answer() -> None:
    terms = Sum((5, 5, 5))
    rewards = [reward(terms.solution(random.Random(seed), carelessness=0.5), "15") for seed in range(40)]
    assert 0.0 < sum(rewards) < 40


def test_every_step_has_the_same_heavy_tail() -> None:
    problems = arithmetic_problems(steps=50, per_step=8, seed=3)
    assert problems == arithmetic_problems(steps=50, per_step=8, seed=3)
    lengths = [problem.text.count("(") for problem in problems]
    longest_of_steps = [max(lengths[i : i + 8]) for i in range(0, 400, 8)]
    assert median(lengths) == 4
    assert min(longest_of_steps) >= 2 * median(lengths)
    assert max(longest_of_steps) == LONGEST


def test_text_that_the_model_cannot_read_is_named() -> None:
    with pytest.raises(UserError, match="f line 1: the model's tokenizer cannot read"):
        longest_prompt([Problem("How many apples?", "3", "f line 1")], BARE, TOKENIZER, limit=50)
    with pytest.raises(UserError, match="f line 2: the prompt has 8 tokens and the model leaves room for 7"):
        longest_prompt([Problem("Add (1) 3 (2) 5 (3) 9.", "17", "f line 2")], BARE, TOKENIZER, limit=7)


def test_second_call_finds_the_first_model(tmp_path: Path) -> None:
    seen: list[int] = []
    place = warm_started_model(tmp_path, TINY, lambda step, loss: seen.append(step))
    assert seen == [1, 2]
    assert warm_started_model(tmp_path, TINY, lambda step, loss: seen.append(step)) == place
    assert seen == [1, 2]
    assert warm_started_model(tmp_path, WarmStart(steps=2, batch=4, seed=1)) != place
    assert len(list(tmp_path.iterdir())) == 2


def test_same_recipe_gives_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = load_file(warm_started_model(tmp_path / "a", TINY) / "model.safetensors")
    torch.manual_seed(2)
    two = load_file(warm_started_model(tmp_path / "b", TINY) / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_an_unfinished_model(tmp_path: Path, trouble: type[BaseException]) -> None:
    def stop(step: int, loss: float) -> None:
        raise trouble

    with pytest.raises(trouble):
        warm_started_model(tmp_path, TINY, stop)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_share_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = warm_start._train

    def other_run_finishes_first(*arguments: object) -> object:
        monkeypatch.setattr(warm_start, "_train", train)
        warm_started_model(tmp_path, TINY)
        return train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(warm_start, "_train", other_run_finishes_first)
    place = warm_started_model(tmp_path, TINY)
    assert list(tmp_path.iterdir()) == [place]
