"""What to try although something else seems faster, and what that may cost.

A credit grows with decode time; a probe is paid from it by the time that it may lose against the present action.
"""

import math

import numpy as np

from .step import Load
from .terms import Vector

SHARE, LEAST_SHARE, CURIOUS_STEPS = 0.008, 0.002, 1024
"""Share of decode time that probing may cost: less and less once nothing has changed for so many steps, and never below
the least, which still finds out when a machine or a drafter has changed."""
MOST_CREDIT = 64.0
"""Plain steps that the credit is worth at most: a step that hung for an hour earns no hour of probes."""
HOPE, FEAR = 1.5, 0.25
"""Standard deviations of optimism with which probes are chosen, of pessimism with which they are paid for."""
MOST_DOUBT = 10.0
"""Relative standard deviation of a speed from which nothing is known of it either way."""
LEAST_GAIN = 0.005
"""What hope must promise."""
LEAST_LOSS = 0.05
"""Least share of its time that a probe is taken to lose: what promises no loss is still not tried at every turn."""
CONFIRM_EVERY, CONFIRM_SOON, CONFIRM_STEPS = 512, 8, 3
"""Steps without plain decoding after which T_T is measured again, the same at a batch size that is new, and how many
steps that takes: that speculation pays is never believed on the strength of speculative steps alone."""


class Probing:
    """The credit, and when each batch size was last decoded plainly."""

    def __init__(self) -> None:
        self.spent = 0.0
        """Seconds of decode time that probes were expected to cost."""
        self._credit = 0.0
        self._unchanged = 0  # decode steps since something changed
        self._plain_owed = 0
        self._restarts = 0
        self._unseen: dict[int, int] = {}  # decode steps since the last plain one, by level of batch size

    def earn(self, load: Load, seconds: float, plain: bool) -> None:
        """A decode step passed."""
        self._unchanged += 1
        self._credit += max(LEAST_SHARE, SHARE * min(1.0, CURIOUS_STEPS / self._unchanged)) * seconds
        level = _level(load)
        self._unseen[level] = 0 if plain else self._unseen.get(level, CONFIRM_EVERY - CONFIRM_SOON) + 1

    def hope(self) -> None:
        """Something changed, the best action or the drafter: probes may change more."""
        self._unchanged = 0

    def lend(self, seconds: float) -> None:
        """The first look is lent: without it nothing is ever earned by drafting."""
        self._credit = seconds

    def look(self, home: int, merits: Vector, doubts: Vector, cycles: Vector) -> tuple[int | None, str]:
        """Index of an action that may beat the present one, if the credit covers one cycle of it; and why.

        Of all that may, the one that promises most for what it may lose: what is learned of one draft length, or of
        plain steps, tells of the others too.

        Args:
            home: index of the present action; 0 is plain decoding.
            merits: expected speed of each action, in any unit; shape [actions].
            doubts: relative standard deviation of each speed over that of `home`; shape [actions].
            cycles: expected seconds of a cycle of each action; shape [actions].
        """
        self._credit = min(self._credit, MOST_CREDIT * float(cycles[0]))
        doubts = np.minimum(doubts, MOST_DOUBT)
        gains = merits * np.exp(HOPE * doubts) / merits[home] - 1.0
        gains[home] = 0.0
        feared = merits * np.exp(-FEAR * doubts) / merits[home]
        losses = cycles * np.maximum(LEAST_LOSS, 1.0 - feared)
        index = int(np.argmax(np.where(gains > LEAST_GAIN, gains / losses, 0.0)))
        if not (gains[index] > LEAST_GAIN and losses[index] <= self._credit):
            return None, ""
        self._spend(float(losses[index]))
        return index, f"may be {1.0 + gains[index]:.2f} times as fast"

    def confirms_plain(self, load: Load, speedup: float, plain_seconds: float, restarts: int) -> bool:
        """Whether a speculating engine takes this step plainly: after a surprise, at a new batch size, or in turn.

        Not asked whether the credit covers it: a gain that nobody checks may be none.

        Args:
            load: what decodes now.
            speedup: expected of the present action over plain decoding.
            plain_seconds: expected T_T.
            restarts: how often the cost model started anew; one more than at the last call is a surprise.
        """
        if self._plain_owed == 0:
            level = _level(load)
            due = self._unseen.get(level, CONFIRM_EVERY - CONFIRM_SOON) >= CONFIRM_EVERY
            if not due and restarts == self._restarts:
                return False
            self._spend(CONFIRM_STEPS * plain_seconds * max(0.0, 1.0 - 1.0 / speedup))
            if restarts != self._restarts:
                self.hope()
            self._plain_owed, self._restarts = CONFIRM_STEPS, restarts
            self._unseen[level] = 0
        self._plain_owed -= 1
        return True

    def _spend(self, seconds: float) -> None:
        self._credit -= seconds
        self.spent += seconds


def _level(load: Load) -> int:
    """Batch sizes within 40 % have one."""
    return round(2.0 * math.log2(load.batch))
