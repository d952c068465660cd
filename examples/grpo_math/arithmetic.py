r"""The built-in problems: add up a list, writing every running total.

    Add (1) 3 (2) 5 (3) 9.      ->       (1) 0+3=3 (2) 3+5=8 (3) 8+9=17 \boxed{17}

The list length is log-normal, so the response length has the heavy tail of real reasoning: most answers are
short and a few are several times longer. The answers that the warm start learns from are worked out with an
odd slip, or *hasty*: a number at once, and the wrong one. So the policy starts with a known share of wrong
answers, and reinforcement has something to find: working it out pays, though it is longer.
"""

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

from .problems import Problem

LONGEST = 24
"""Most numbers in one list; also the number of "(i)" tokens of the built-in tokenizer."""
_LOG_LENGTH = NormalDist(math.log(4), 0.8)
TOKEN_PATTERN = r"Add| \(\d+\) |\d|[+=.}]| \\boxed\{"
"""Splits problems and solutions into the built-in tokenizer's tokens."""
VOCABULARY = [
    "<pad>", "<eos>", "<unk>", "Add", *"0123456789", *"+=.}", " \\boxed{",
    *(f" ({i}) " for i in range(1, LONGEST + 1)),
]  # fmt: skip


@dataclass(frozen=True)
class Sum:
    """A list of one-digit numbers to add."""

    terms: tuple[int, ...]

    @property
    def text(self) -> str:
        return "Add" + "".join(f" ({i}) {x}" for i, x in enumerate(self.terms, 1)) + "."

    def problem(self, number: int) -> Problem:
        return Problem(self.text, str(sum(self.terms)), f"built-in problem {number}")

    def guess(self) -> str:
        """A hasty answer: the last number, as if it were the sum."""
        return f" \\boxed{{{self.terms[-1]}}}"

    def solution(self, rng: random.Random, carelessness: float) -> str:
        """A worked answer; each running total is off by one with probability `carelessness`."""
        total, steps = 0, []
        for i, x in enumerate(self.terms, 1):
            slip = rng.choice((-1, 1)) if rng.random() < carelessness else 0
            before, total = total, max(0, total + x + slip)
            steps.append(f" ({i}) {before}+{x}={total}")
        return "".join(steps) + f" \\boxed{{{total}}}"


def random_sum(rng: random.Random, quantile: float | None = None, longest: int = LONGEST) -> Sum:
    """A sum of 2 to `longest` terms: log-normal, median 4, 1 list in 20 longer than 14.

    Args:
        quantile: where in the distribution of lengths, between 0 and 1; anywhere if None.
    """
    where = rng.random() if quantile is None else quantile
    count = round(math.exp(_LOG_LENGTH.inv_cdf(min(max(where, 1e-6), 1 - 1e-6))))
    return Sum(tuple(rng.randint(0, 9) for _ in range(min(longest, max(2, count)))))


def arithmetic_problems(steps: int, per_step: int, seed: int) -> list[Problem]:
    """Problems for a whole run, the same for the same seed.

    Each step gets one problem from each of `per_step` equal slices of the length distribution: every step has
    its long answers, and the rewards of different steps can be compared.
    """
    rng = random.Random(seed)
    sums = [random_sum(rng, (index + rng.random()) / per_step) for _ in range(steps) for index in range(per_step)]
    return [s.problem(number) for number, s in enumerate(sums, 1)]
