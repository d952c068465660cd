"""Drafts are drawn with exactly the probabilities that the rejection sampler is told."""

import torch
from scipy.stats import chisquare

from nemo_rl_efficientrollout.engine.proposer_v1 import draw

ROWS = 100_000


def test_frequencies_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.1, 0.025, 0.0])
    torch.manual_seed(0)
    drawn = draw(probabilities.expand(ROWS, -1), {})
    counts = torch.bincount(drawn, minlength=7).double()
    assert counts[1] == counts[6] == 0
    positive = probabilities > 0
    expected = probabilities[positive].double() / probabilities.double().sum() * ROWS
    assert chisquare(counts[positive].numpy(), expected.numpy()).pvalue > 1e-4


def test_a_certain_token_is_always_drawn() -> None:
    for certain in (0, 3, 6):
        probabilities = torch.zeros(1000, 7)
        probabilities[:, certain] = 1.0
        assert (draw(probabilities, {}) == certain).all()


def test_seeded_rows_repeat_and_leave_the_others_alone() -> None:
    probabilities = torch.full((4, 1000), 1e-3)
    draws = [draw(probabilities, {2: torch.Generator().manual_seed(5)}) for _ in range(8)]
    assert len({int(row[2]) for row in draws}) == 1
    assert len({int(row[0]) for row in draws}) > 1
