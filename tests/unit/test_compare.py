"""The comparison of two runs: known differences are found, absent ones are not, and lengths do not pass for speed."""

import json

import numpy as np
import pytest

from nemo_rl_efficientrollout.compare.bootstrap import (
    Interval,
    block_length,
    difference_of_means,
    interval,
    log_ratio_of_medians,
)
from nemo_rl_efficientrollout.compare.comparison import Comparison, compare
from nemo_rl_efficientrollout.compare.derive import responses
from nemo_rl_efficientrollout.compare.metrics import (
    ACCEPTANCE_RATE,
    GENERATION,
    MEAN_TOKENS,
    MISMATCH,
    PER_TOKEN,
    REWARD,
    STEP_TIME,
    TOKENS_PER_SECOND,
)
from nemo_rl_efficientrollout.compare.run import collect
from nemo_rl_efficientrollout.compare.to_json import to_json
from nemo_rl_efficientrollout.compare.words import caveats, conclusions, verdict
from nemo_rl_efficientrollout.errors import UserError
from tests.runs import ACCELERATED, CONFIG, SECONDS_PER_TOKEN, Rows, history, run

RESPONSES = CONFIG["grpo"]["num_prompts_per_step"] * CONFIG["grpo"]["num_generations_per_prompt"]


def words(found: Comparison) -> str:
    return " ".join([*conclusions(found), *caveats(found)]).replace("\u00a0", " ")


def without(rows: Rows, *names: str) -> Rows:
    return [(step, {key: value for key, value in row.items() if key not in names}) for step, row in rows]


def correlated(random: np.random.Generator, steps: int, correlation: float) -> np.ndarray:
    """A first-order autoregression with deviation 0.1."""
    values = random.normal(0, 0.1, steps)
    values[0] /= np.sqrt(1 - correlation**2)
    for step in range(1, steps):
        values[step] += correlation * values[step - 1]
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_intervals_hold_the_truth_as_often_as_they_claim(correlation: float):
    random = np.random.default_rng(7)
    ratios = means = 0
    for _ in range(200):
        a, b = (correlated(random, 40, correlation) for _ in range(2))
        ratio = interval(np.exp(a), np.exp(b), log_ratio_of_medians, b - a)
        mean = interval(a, b, difference_of_means, b - a)
        assert ratio
        assert mean
        ratios += 0.0 in ratio
        means += 0.0 in mean
    assert 0.88 <= ratios / 200 <= 0.99
    assert 0.88 <= means / 200 <= 0.99


def test_pairing_takes_out_what_both_runs_share():
    """Lengths that grow fivefold in both runs are no uncertainty of their difference."""
    random = np.random.default_rng(0)
    course: np.ndarray = np.linspace(1, 5, 50)
    a, b = (course + correlated(random, 50, 0.0) for _ in range(2))
    found = interval(a, b, difference_of_means, b - a)
    assert found
    assert found.high - found.low < 0.2  # the mean of one alone varies by more than 0.6


def test_neighbours_are_drawn_together_as_far_as_they_are_alike():
    random = np.random.default_rng(3)
    assert block_length(random.normal(size=200)) <= 3
    assert block_length(correlated(random, 200, 0.9)) >= 10
    assert block_length(np.ones(50)) == 1


def test_few_steps_have_no_interval():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert interval(values, values, difference_of_means, values) is None
    found = compare(run(history(4)), run(history(4, speed=0.5, seed=1)))
    assert found.metrics[GENERATION].pairs == 3
    assert found.metrics[GENERATION].differs is None
    assert "too few steps" in verdict(found.metrics[GENERATION])


def test_a_known_speed_is_recovered():
    plain = run(history(40))
    fast = run(history(40, speed=0.6, speculating=True, seed=1), ACCELERATED)
    found = compare(plain, fast)
    for name in (GENERATION, PER_TOKEN):
        compared = found.metrics[name]
        assert compared.estimate == pytest.approx(0.6, rel=0.05)
        assert compared.interval
        assert 0.6 in compared.interval
        assert compared.differs
    assert found.metrics[TOKENS_PER_SECOND].estimate == pytest.approx(1 / 0.6, rel=0.05)
    step = found.metrics[STEP_TIME]
    assert step.estimate == pytest.approx((0.6 * 25 + 10) / 35, rel=0.05)
    assert "Rollout time: B is ×" in words(found)


def test_seconds_per_token_count_every_response():
    found = compare(run(history(40, noise=0.001)), run(history(40, noise=0.001)))
    per_token, throughput = found.metrics[PER_TOKEN].a, found.metrics[TOKENS_PER_SECOND].a
    assert per_token
    assert throughput
    assert per_token.center == pytest.approx(SECONDS_PER_TOKEN / RESPONSES, rel=0.01)
    assert throughput.center == pytest.approx(RESPONSES / SECONDS_PER_TOKEN, rel=0.01)


def test_batches_of_dynamic_sampling_count_too():
    def sampled(batches: float) -> Rows:
        return [
            (step, row | {"train/dynamic_sampling_num_gen_batches": batches, GENERATION: batches * row[GENERATION]})
            for step, row in history(20)
        ]

    found = compare(run(sampled(1)), run(sampled(3)))
    assert found.metrics[GENERATION].estimate == pytest.approx(3)
    assert found.metrics[PER_TOKEN].estimate == pytest.approx(1)


def test_equal_runs_are_not_called_equal():
    found = compare(run(history(40)), run(history(40, seed=1)))
    for name in (GENERATION, PER_TOKEN, STEP_TIME, MEAN_TOKENS):
        assert found.metrics[name].differs is False
        assert "no difference seen that exceeds" in verdict(found.metrics[name])
    reward = found.metrics[REWARD]
    assert reward.interval
    excluded = float(verdict(reward).split()[-1])
    largest = max(-reward.interval.low, reward.interval.high)
    assert largest <= excluded < 1.2 * largest
    assert "equal" not in words(found)


def test_shorter_answers_are_not_taken_for_speed():
    found = compare(run(history(40)), run(history(40, length=0.8, seed=1)))
    assert found.metrics[GENERATION].differs
    assert found.metrics[PER_TOKEN].differs is False
    assert found.metrics[MEAN_TOKENS].estimate == pytest.approx(0.8, rel=0.03)
    assert "what differs is the lengths, not the speed" in words(found)


def test_speed_that_longer_answers_hide_is_named():
    found = compare(run(history(40)), run(history(40, length=1.25, speed=0.8, seed=1)))
    assert found.metrics[GENERATION].differs is False
    assert found.metrics[PER_TOKEN].differs
    assert "hides the difference per token" in words(found)


def test_unknown_lengths_are_said():
    found = compare(run(history()), run(without(history(seed=1), MEAN_TOKENS)))
    assert PER_TOKEN not in found.metrics or not found.metrics[PER_TOKEN].pairs
    assert "could pass for speed" in words(found)
    assert MEAN_TOKENS in found.missing["B"]


def test_unknown_number_of_responses_is_said():
    found = compare(run(history()), run(history(seed=1), {}))
    assert TOKENS_PER_SECOND not in found.metrics
    assert found.metrics[PER_TOKEN].estimate == pytest.approx(1, rel=0.05)
    assert "number of responses per step is not recorded" in words(found)
    assert "No settings are recorded in B" in words(found)


def test_a_change_of_reward_is_found():
    found = compare(run(history(40)), run(history(40, reward=-0.2, seed=1)))
    reward = found.metrics[REWARD]
    assert reward.estimate == pytest.approx(-0.2, abs=0.03)
    assert reward.differs
    assert "Reward: B is lower by" in words(found)


def test_first_steps_are_left_out_of_each_run_and_said():
    plain, late = history(20), [(step + 10, row) for step, row in history(20, seed=1)]
    found = compare(run(plain), run(late), skip=3)
    assert (found.steps[0], found.steps[-1]) == (14, 20)
    assert compare(run(late), run(plain), skip=3).steps == found.steps
    assert "the first 3 steps of each run are left out" in words(found)
    assert compare(run(plain), run(plain), skip=0).steps[0] == 1
    warm = compare(run(plain), run(plain)).metrics[GENERATION].a
    assert warm
    assert warm.steps == 19


def test_set_up_and_validation_are_no_steps():
    rows: Rows = [(0, {"timing/setup/total": 3.0, "validation/accuracy": 0.1}), *history(10)]
    assert compare(run(rows), run(rows)).steps == list(range(2, 11))


def test_a_metric_counts_at_the_steps_that_have_it_in_both_runs():
    rows = history(20)
    killed = [*rows[:-1], *without(rows[-1:], GENERATION, STEP_TIME)]
    found = compare(run(rows), run(killed))
    assert found.metrics[GENERATION].pairs == 18
    assert found.metrics[REWARD].pairs == 19


def test_placeholders_of_a_run_without_drafts_are_no_acceptance():
    found = compare(run(history()), run(history(speculating=True, seed=1), ACCELERATED))
    assert found.metrics[ACCEPTANCE_RATE].a is None
    assert found.metrics[ACCEPTANCE_RATE].b
    assert ACCEPTANCE_RATE in found.missing["A"]
    assert verdict(found.metrics[ACCEPTANCE_RATE]) == "only in B"
    assert "train/efficientrollout/acceptance_by_position/2" in found.metrics


def test_what_no_run_has_is_named():
    rows = without(history(), MISMATCH)
    found = compare(run(rows), run(rows))
    assert MISMATCH in found.missing["both"]
    assert f"Missing in both: {MISMATCH}" in words(found)


def test_other_settings_that_differ_are_a_possible_cause():
    other = {**ACCELERATED, "grpo": {**CONFIG["grpo"], "seed": 1}}
    found = compare(run(history()), run(history(seed=1), other))
    assert found.settings.unexpected == {"grpo.seed": (None, 1)}
    assert "policy.generation.efficientrollout.strict" in found.settings.expected
    assert "grpo.seed (None | 1)" in words(found)


def test_settings_are_alike_in_whatever_form_a_logger_keeps_them():
    as_floats = {"grpo.num_prompts_per_step": 4.0, "data.paths.0": "x", "nan": float("nan")}
    a = run(history(), {"grpo": {"num_prompts_per_step": 4}, "data": {"paths": ["x"]}, "nan": float("nan")})
    assert not compare(a, run(history(), as_floats)).settings.unexpected


def test_times_of_zero_have_no_ratio():
    rows = [(step, row | {"timing/train/weight_sync": 0.0}) for step, row in history()]
    found = compare(run(rows), run(rows)).metrics["timing/train/weight_sync"]
    assert found.estimate is None
    assert "not all values are above 0" in verdict(found)


def test_no_common_steps_and_no_history_are_one_line():
    early, late = history(5), [(step + 50, row) for step, row in history(5)]
    with pytest.raises(UserError, match=r"no common steps: .* 1 to 5 .* 51 to 55"):
        compare(run(early), run(late))
    with pytest.raises(UserError, match="has no history of training"):
        compare(run(early), run([(1, {"ray/gpu": 1.0})]))


def test_json_has_units_and_is_valid():
    found = compare(run(history()), run(history(speed=0.7, speculating=True, seed=1), ACCELERATED))
    content = json.loads(json.dumps(to_json(found), allow_nan=False))
    time = content["metrics"][GENERATION]
    assert (time["unit"], time["estimate_unit"], time["compared_by"]) == ("s", "1", "ratio of medians")
    assert time["interval"][0] < time["estimate"] < time["interval"][1]
    assert content["metrics"][REWARD]["estimate_unit"] == content["metrics"][REWARD]["unit"]
    assert content["metrics"][ACCEPTANCE_RATE]["a"] is None
    assert content["skipped_first_steps"] == 1
    assert content["common_steps"] == {"count": 29, "first": 2, "last": 30}


def test_series_hold_finite_numbers_of_each_step_in_order():
    rows = [(2, {"train": {"reward": 0.2}}), (1, {"train/reward": 0.1, "nan": float("nan")}), (2, {"train.reward": 3})]
    assert collect(rows) == {"train/reward": {1: 0.1, 2: 3.0}}


def test_an_interval_of_a_ratio_comes_from_its_logarithm():
    found = Interval(0.0, np.log(2), 3).exp()
    assert (found.low, found.high, found.block) == pytest.approx((1.0, 2.0, 3))


def test_values_that_no_ratio_can_hold_are_left_out():
    series = collect([(1, {"a": 1e308, "b": 1e-300, "c": 10**299, "d": 0.0, "e": 1e30})])
    assert set(series) == {"d", "e"}


@pytest.mark.parametrize("count", [10**300, 1e300, "4", True, -1, float("nan")], ids=range(6))
def test_settings_that_count_nothing_are_not_counted(count: object):
    config = {"grpo": {"num_prompts_per_step": 4, "num_generations_per_prompt": 8, "batch_multiplier": count}}
    assert responses(run(history(2), config)) in (None, 32.0)
