"""Acceptance by position: counted by hand, cut at the end token, and with intervals that hold the truth."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.positions import Positions, Verification, watched
from nemo_rl_efficientrollout.errors import UserError

END = 1
WORD = 7


def verified(drafted: int, accepted: int) -> Verification:
    return Verification(drafted, [WORD] * (accepted + 1))


def positions(*requests: list[Verification], longest: int = 3) -> Positions:
    return Positions.of(requests, longest, END)


def test_a_position_is_judged_only_where_it_was_reached():
    counted = positions([verified(3, 3), verified(3, 1)], [verified(3, 0), verified(3, 2)])
    assert counted.reached.sum(axis=0).tolist() == [4, 3, 2]
    assert counted.kept.sum(axis=0).tolist() == [3, 2, 1]
    assert counted.drafted == 12
    assert [counted.rate(i).value for i in (1, 2, 3)] == pytest.approx([3 / 4, 2 / 3, 1 / 2])
    assert counted.length(1).value == pytest.approx(1.75)
    assert counted.length(3).value == pytest.approx((4 + 2 + 1 + 3) / 4)  # what came out, over the verifications


def test_a_draft_that_was_cut_short_says_nothing_of_later_positions():
    counted = positions([verified(1, 1), verified(3, 3)])
    assert counted.reached.sum(axis=0).tolist() == [2, 1, 1]
    assert counted.rate(2).value == 1.0


def test_what_is_drafted_behind_the_end_token_does_not_count():
    ends_with_second_draft = Verification(3, [WORD, END, WORD])  # the third draft was rejected, nobody asked for it
    counted = positions([verified(3, 3), ends_with_second_draft])
    assert counted.reached.sum(axis=0).tolist() == [2, 2, 1]
    assert counted.kept.sum(axis=0).tolist() == [2, 2, 1]
    assert counted.drafted == 5


def test_an_end_token_in_place_of_a_draft_rejects_it():
    counted = positions([verified(3, 3), Verification(3, [WORD, END])])
    assert counted.reached.sum(axis=0).tolist() == [2, 2, 1]
    assert counted.kept.sum(axis=0).tolist() == [2, 1, 1]


def test_requests_are_drawn_not_tokens():
    """A thousand drafts of two requests that disagree are two observations."""
    torn = positions([verified(1, 1)] * 500, [verified(1, 0)] * 500, longest=1)
    assert (torn.rate(1).low, torn.rate(1).high) == (0.0, 1.0)
    alike = positions(*[[verified(1, 1), verified(1, 0)]] * 500, longest=1)
    assert alike.rate(1) == (0.5, 0.5, 0.5)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    chance = np.random.default_rng(0)
    held_rate = held_length = 0
    for _ in range(200):
        requests = []
        for alpha in chance.beta(16, 4, size=60):  # mean 0.8, and requests differ
            streaks = np.minimum(chance.geometric(1 - alpha, size=10) - 1, 2)
            requests.append([verified(2, int(streak)) for streak in streaks])
        counted = positions(*requests, longest=2)
        first, length = counted.rate(1), counted.length(2)
        held_rate += first.low <= 0.8 <= first.high
        held_length += length.low <= 1 + 0.8 + 16 * 17 / (20 * 21) <= length.high
    assert 180 <= held_rate <= 199
    assert 180 <= held_length <= 199


def test_without_a_rejection_the_interval_is_not_empty():
    counted = positions([verified(2, 2)] * 50, longest=2)
    assert counted.rate(1) == pytest.approx((1.0, 1 - 3 / 50, 1.0))
    assert counted.length(2) == pytest.approx((3.0, 1 + 0.97 + 0.97**2, 3.0))


def test_difference_of_two_lengths():
    better = positions(*[[verified(1, 1), verified(1, 1), verified(1, 0)]] * 30, longest=1)
    worse = positions(*[[verified(1, 1), verified(1, 0), verified(1, 0)]] * 40, longest=1)
    assert better.longer_than(worse, 1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_nothing_to_estimate_is_said():
    with pytest.raises(UserError, match="position 2"):
        positions([verified(2, 0)], longest=2)


def test_watching_sees_what_the_scheduler_sees_and_ends():
    class Scheduler:
        def update_from_output(self, output: Any, result: Any) -> str:
            return "answer"

    scheduler = Scheduler()
    output = SimpleNamespace(scheduled_spec_decode_tokens={"b": [4, 5], "gone": [6]})
    result = SimpleNamespace(req_id_to_index={"a": 0, "b": 1, "gone": 2}, sampled_token_ids=[[9], [4, 8], []])
    with watched(scheduler) as seen:
        assert scheduler.update_from_output(output, result) == "answer"
    assert seen == {"b": [Verification(2, [4, 8])]}
    scheduler.update_from_output(output, result)
    assert seen == {"b": [Verification(2, [4, 8])]}
