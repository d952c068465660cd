"""Rewards: only an announced answer that is mathematically equal counts."""

import pytest

from examples.grpo_math.reward import reward


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        (r" (1) 0+3=3 (2) 3+5=8 \boxed{8}", "8", 1.0),
        (r"\boxed{08}", "8", 1.0),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"so it is $\boxed{1,007}$", "1007", 1.0),
        ("The answer is 8.", "8", 1.0),
        (r"\boxed{9}", "8", 0.0),
        (" (1) 0+3=3 (2) 3+5=8", "8", 0.0),  # cut off before it was announced
        (r"\boxed{8} or \boxed{9}", "8", 0.0),
        (r"\boxed{8", "8", 0.0),
        ("", "8", 0.0),
    ],
)
def test_reward(response: str, answer: str, expected: float) -> None:
    assert reward(response, answer) == expected
