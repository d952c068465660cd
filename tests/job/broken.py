"""The job, broken on purpose between its rollouts, one thing after the other: `python -m tests.job.broken …`."""

import os

import pytest

from examples.grpo_math.__main__ import ENVIRONMENT, ONE_THREAD, app

os.environ.update(ENVIRONMENT | ONE_THREAD)

from examples.grpo_math.engine import Rollout, RolloutEngine
from tests.alarm_causes import (
    forget_the_drafter,
    freeze_the_drafter,
    freeze_the_gate_at_its_longest,
    slow_down,
    slow_down_drafts,
    stop_learning_costs,
)


class Breaker:
    """Stands in place of `RolloutEngine.rollout`."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.original = RolloutEngine.rollout
        self.number = 0

    def rollout(self, engine: RolloutEngine, prompts: list[list[int]]) -> Rollout:
        self.number += 1
        self.before(engine)
        rollout = self.original(engine, prompts)
        self.after(engine)
        return rollout

    def before(self, engine: RolloutEngine) -> None:
        """Drafts of the fixed gate come first, then rollouts 9 and 10 teach the automatic gate how slow they are."""
        if self.number == 5:
            freeze_the_drafter(engine.llm, self.patch)
        elif self.number == 9:
            engine.set_gate({"mode": "auto"})
            slow_down_drafts(engine.llm, self.patch)
        elif self.number == 11:
            freeze_the_gate_at_its_longest(engine.llm, self.patch)
        elif self.number == 14:
            stop_learning_costs(engine.llm, self.patch)
            slow_down(engine.llm, self.patch, factor=40.0)  # drafts alone are most of a step by now

    def after(self, engine: RolloutEngine) -> None:
        """A refit follows."""
        if self.number == 1:
            forget_the_drafter(engine.llm, self.patch)
        elif self.number in (4, 7):
            self.patch.undo()


if __name__ == "__main__":
    breaker = Breaker()
    RolloutEngine.rollout = lambda engine, prompts: breaker.rollout(engine, prompts)  # type: ignore[method-assign]
    app()
