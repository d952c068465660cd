"""The comparison of counts finds what it says it finds, and tests/exact.py knows what sampling parameters mean."""

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.counts import POWER, Tokens, against_exact, against_plain
from tests.exact import constrain

CELLS, SAMPLES = 64, 20_000
CHANCE = np.random.default_rng(1).dirichlet(np.full(CELLS, 2.0))
EXACT: dict[Tokens, float] = {(cell,): float(chance) for cell, chance in enumerate(CHANCE)}


def draw(chance: NDArray[np.float64], samples: int, seed: int) -> "Counter[Tokens]":
    counts = np.random.default_rng(seed).multinomial(samples, chance)
    return Counter({(cell,): int(count) for cell, count in enumerate(counts)})


def biased(size: float) -> NDArray[np.float64]:
    """By a total variation of `size`, in the direction that is hardest to see: in proportion to the probabilities."""
    order = np.argsort(CHANCE)[::-1]
    sign = np.ones(CELLS)
    for cell in order:  # halves of equal probability
        sign[cell] = -1.0 if CHANCE @ sign - CHANCE[cell] > 0 else 1.0
    chance = CHANCE * (1 + 2 * size * (sign - CHANCE @ sign))
    return chance / chance.sum()


def test_exact_samples_pass() -> None:
    verdicts = [against_exact(draw(CHANCE, SAMPLES, seed), EXACT) for seed in range(60)]
    assert all(verdict.exact for verdict in verdicts)
    assert 0.3 < np.mean([verdict.p for verdict in verdicts]) < 0.7


def test_the_smallest_bias_is_caught_and_a_third_of_it_is_not() -> None:
    size = against_exact(draw(CHANCE, SAMPLES, 0), EXACT).smallest_bias
    chance = biased(size)
    assert np.abs(chance - CHANCE).sum() / 2 == pytest.approx(size, rel=0.02)
    caught = [not against_exact(draw(chance, SAMPLES, seed), EXACT).exact for seed in range(100)]
    assert np.mean(caught) > POWER - 0.03  # three standard deviations of 100 trials
    missed = [against_exact(draw(biased(size / 3), SAMPLES, seed), EXACT).exact for seed in range(20)]
    assert np.mean(missed) > 0.5


def test_against_plain_samples() -> None:
    def verdict(chance: NDArray[np.float64], seed: int) -> bool:
        return against_plain(draw(chance, SAMPLES, seed), draw(CHANCE, 2 * SAMPLES, 1000 + seed)).exact

    size = against_plain(draw(CHANCE, SAMPLES, 0), draw(CHANCE, 2 * SAMPLES, 1)).smallest_bias
    assert all(verdict(CHANCE, seed) for seed in range(30))
    assert np.mean([verdict(biased(size), seed) for seed in range(60)]) < 1 - POWER + 0.04


def test_a_sequence_that_cannot_come_is_an_error() -> None:
    with pytest.raises(AssertionError, match="cannot give"):
        against_exact(Counter({(CELLS,): 1}), EXACT)


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64)
NEVER = float("-inf")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"temperature": 0.5}, [4.0, 2.0, 0.0, -2.0]),
        ({"top_k": 2}, [2.0, 1.0, NEVER, NEVER]),
        ({"top_p": 0.6}, [2.0, NEVER, NEVER, NEVER]),  # the first has 0.64
        ({"top_p": 0.65}, [2.0, 1.0, NEVER, NEVER]),
        ({"repetition_penalty": 2.0}, [1.0, 0.5, 0.0, -2.0]),
        ({"presence_penalty": 0.5}, [2.0, 0.5, 0.0, -1.5]),
        ({"frequency_penalty": 0.5}, [2.0, 0.0, 0.0, -1.5]),
        ({"bad_words": [[0], [3, 2], [1, 3]]}, [NEVER, 1.0, 0.0, NEVER]),
        ({"allowed_token_ids": [1, 3]}, [NEVER, 1.0, NEVER, -1.0]),
        ({"never": [1]}, [2.0, NEVER, 0.0, -1.0]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sampling_parameters(asked: dict, expected: list[float]) -> None:
    """After a prompt of token 0 and the answer 1, 3, 1."""
    assert constrain(LOGITS, [0], [1, 3, 1], **asked).tolist() == pytest.approx(expected)
