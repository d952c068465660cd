"""Acceptance by position and context length, and how sure it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_rl_efficientrollout.gate.acceptance import BUCKETS, HALF_LIFE, Acceptance, bucket


def feed(acceptance: Acceptance, rates: list[float], drafts: int, context: int = 100, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(drafts):
        kept = 0
        while kept < len(rates) and rng.random() < rates[kept]:
            kept += 1
        acceptance.observe([len(rates)], [kept], [context])


def test_converges_by_position() -> None:
    acceptance = Acceptance(3)
    feed(acceptance, [0.9, 0.6, 0.3], 3000)
    assert acceptance.rates(100) == pytest.approx([0.9, 0.6, 0.3], abs=0.06)
    assert acceptance.lengths(100)[3] == pytest.approx(1 + 0.9 + 0.9 * 0.6 + 0.9 * 0.6 * 0.3, abs=0.12)
    assert acceptance.lengths(100)[0] == 1.0


def test_starts_optimistic_and_refit_weakens_the_past() -> None:
    acceptance = Acceptance(2)
    assert acceptance.rates() == pytest.approx([0.97 * 22 / 24 + 0.03 / 2] * 2)
    feed(acceptance, [0.0, 0.0], 50)
    low, sure = acceptance.rates()[0], acceptance.deviations()[1]
    acceptance.refit()
    assert low < 0.1
    assert acceptance.rates()[0] > low
    assert acceptance.deviations()[1] > sure


def test_bad_luck_at_first_is_not_taken_for_a_bad_drafter_and_a_broken_one_is_soon_known() -> None:
    unlucky, broken = Acceptance(3), Acceptance(3)
    for accepted in (3, 0, 3, 2):
        unlucky.observe([3], [accepted], [100])
    assert unlucky.rates(100).min() > 0.8
    for _ in range(6):
        broken.observe([3], [0], [100])
    assert broken.lengths(100)[3] < 1.5


def test_idling_forgets_in_favour_of_the_prior() -> None:
    acceptance = Acceptance(2)
    feed(acceptance, [0.0, 0.0], 50)
    for _ in range(20000):
        acceptance.idle()
    assert acceptance.rates() == pytest.approx([0.9, 0.9], abs=0.01)


def test_a_short_draft_counts_by_its_own_length() -> None:
    one, two = Acceptance(4), Acceptance(4)
    for _ in range(200):
        one.observe([1], [1], [100])  # a row near the length limit drafts one token: position 2 was never tried
        two.observe([4], [1], [100])  # here it was tried, and rejected
    assert one.rates()[1] > 0.9
    assert two.rates()[1] < 0.1


def test_contexts_are_judged_apart_once_there_is_evidence() -> None:
    acceptance = Acceptance(2)
    feed(acceptance, [0.95, 0.95], 2000, context=100)
    assert acceptance.rates(8000)[0] == pytest.approx(0.95, abs=0.05)  # the nearest evidence there is
    feed(acceptance, [0.5, 0.5], 300, context=8000)
    assert acceptance.rates(8000)[0] == pytest.approx(0.5, abs=0.06)
    assert acceptance.rates(100)[0] == pytest.approx(0.95, abs=0.03)


def test_follows_a_change_within_a_few_half_lives() -> None:
    acceptance = Acceptance(1)
    feed(acceptance, [0.9], 5000)
    feed(acceptance, [0.3], 4 * HALF_LIFE, seed=1)
    assert acceptance.rates(100)[0] == pytest.approx(0.3, abs=0.08)


def test_deviation_is_that_of_repeated_experiments() -> None:
    lengths, stated = [], []
    for seed in range(60):
        acceptance = Acceptance(3)
        feed(acceptance, [0.8, 0.8, 0.8], 300, seed=seed)
        lengths.append(acceptance.lengths(100))
        stated.append(acceptance.deviations(100))
    assert np.std(lengths, axis=0)[1:] == pytest.approx(np.mean(stated, axis=0)[1:], rel=0.4)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**9)), min_size=1, max_size=20),
)
def test_rates_stay_probabilities(drafts: list[tuple[int, int, int]]) -> None:
    acceptance = Acceptance(5)
    acceptance.observe([d for d, _, _ in drafts], [min(a, d) for d, a, _ in drafts], [c for _, _, c in drafts])
    for context in (0, 700, 10**9):
        assert ((acceptance.rates(context) > 0) & (acceptance.rates(context) < 1)).all()
        assert (np.diff(acceptance.lengths(context)) > 0).all()
        assert np.isfinite(acceptance.deviations(context)).all()


def test_buckets_double() -> None:
    assert [bucket(c) for c in (0, 511, 512, 1023, 1024, 2048, 4096, 10**9)] == [0, 0, 1, 1, 2, 3, 4, BUCKETS - 1]
