"""The action of the next step: a pure state machine, no I/O, no clock of its own.

| state       | meaning                                                         | leaves it when               |
|-------------|-----------------------------------------------------------------|------------------------------|
| LEARNING    | γ = 0: what a plain step takes is not known yet                 | three plain steps were timed |
| PLAIN       | γ = 0 is expected to be fastest                                 | another action promises more |
| SPECULATING | some γ > 0 is                                                   | the same                     |
| PROBING     | one step of an action that may be better, paid from a share of  | it was taken                 |
|             | decode time                                                     |                              |

There is no state in which nothing is learned: every step corrects the cost model, PLAIN and SPECULATING both probe.
"""

import math
from collections import OrderedDict, deque
from enum import Enum
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from .acceptance import Acceptance
from .action import PLAIN, Action, Prediction, actions
from .cost_model import CostModel
from .described import Described
from .foresight import Foresight
from .online import Tracker
from .prior import Prior
from .probing import Probing
from .step import Load, Step
from .terms import Padding, Terms, Vector

HANDICAP = 0.005
"""What speculation must promise over plain decoding: of many noisy predictions the best is too good to be true."""
SWITCH_GAIN = 0.005
"""Smallest predicted gain for which γ changes: a switch costs nothing by itself, dithering spoils the samples."""
DOUBT = 0.5
"""Standard deviations of a gain that it must exceed besides."""
LOOK_EVERY = 4
"""Steps between two looks around for something to probe."""
BASELINE_STEPS = 3
_MOST_REQUESTS, _LONGEST_CONTEXT = 10**6, 1e8
_SHORTEST_STEP, _LONGEST_STEP = 1e-7, 1e4
_CACHED_LOADS = 256
_PER_DOUBLING = 16
"""Context lengths within 4 % share their terms."""


class State(Enum):
    """See the table above."""

    LEARNING = "learning"
    PLAIN = "plain"
    SPECULATING = "speculating"
    PROBING = "probing"


class Decision(NamedTuple):
    """An entry of the trace: what was chosen from here on, and why."""

    step: int
    load: Load
    state: State
    action: Action
    speedup: float
    """Tokens per second over those of plain decoding, as predicted; NaN where nothing is."""
    why: str


class AutoGate:
    """The action with the highest expected tokens per second: τ over the cost of its draft-verify cycle."""

    learns = True

    def __init__(
        self,
        max_draft_length: int,
        model: CostModel | None = None,
        padding: Padding | None = None,
        prior: Prior | None = None,
        draft_lengths: tuple[int, ...] = (),
    ) -> None:
        """Start from `model` (a calibration), else from the shape of `prior` once a plain step was timed."""
        self.actions = actions(draft_lengths or range(max_draft_length + 1))
        self._drafter = self.actions[1].drafter
        self._handicaps = np.array([1.0 if action == PLAIN else 1.0 / (1.0 + HANDICAP) for action in self.actions])
        self._draft_lengths = np.array([action.draft_length for action in self.actions])
        self._index = {action.draft_length: i for i, action in enumerate(self.actions)}
        self.tracker = Tracker(model) if model else None
        self.acceptance = {
            name: Acceptance(max_draft_length) for name in dict.fromkeys(a.drafter for a in self.actions[1:])
        }
        self.trace: deque[Decision] = deque(maxlen=256)
        self.state = State.LEARNING
        self.action = PLAIN
        self.switches = 0
        self.probing = Probing()
        self.foresight = Foresight()
        self._prior, self._padding = prior or Prior(plain_seconds=1.0, unsure_ridge=4.0), padding
        self._baseline: list[Step] = []
        self._waiting: Step | None = None
        self._home = 0  # index of the action to which a probe returns
        self._steps = 0
        self._cycles: OrderedDict[tuple[int, int], Vector] = OrderedDict()
        self._context = 0.0

    def choose(self, load: Load) -> int:
        """γ of the next step; 0 for a load that is no load."""
        if self.tracker is None or not _sound(load):
            return self._settle(load, State.LEARNING, 0, math.nan, "no cost model yet")
        speeds, cycles = self._speeds(load)
        merits = speeds * self._handicaps
        best = int(merits.argmax())
        if not math.isfinite(merits[best]):  # of infinities and NaNs the first is the largest
            return self._settle(load, State.LEARNING, 0, math.nan, "the cost model gave no number")
        self._context = load.context
        if best != self._home:
            margin = SWITCH_GAIN + DOUBT * float(self._doubts(load, self._home)[best])
            if merits[best] > merits[self._home] * (1.0 + margin) or speeds[self._home] < 1.0:
                self._home = best
                self.probing.hope()
        if self._home and self.probing.confirms_plain(
            load, float(speeds[self._home]), float(cycles[0]), self.tracker.restarts
        ):
            return self._settle(load, State.PROBING, 0, 1.0, "what does a plain step take now?")
        if self._steps % LOOK_EVERY == 0:
            probe, why = self.probing.look(self._home, merits, self._doubts(load, self._home), cycles)
            if probe is not None:
                return self._settle(load, State.PROBING, probe, float(speeds[probe]), why)
        state = State.SPECULATING if self._home else State.PLAIN
        return self._settle(load, state, self._home, float(speeds[self._home]), "fastest by prediction")

    def observe(self, step: Step) -> None:
        """Learn from a finished step."""
        self._steps += 1
        if step.drafted:
            self.acceptance[self._drafter].observe(step.drafted, step.accepted, step.contexts)
        elif not step.verified:
            for record in self.acceptance.values():
                record.idle()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and step.verified:
            self._learn_cost(waiting)
        if step.asked:
            self._waiting = step  # whether it really drafted shows in the next step: a stale drafter does not
        else:
            self._learn_cost(step)

    def refit(self) -> None:
        """The policy and its drafter have new weights."""
        self.probing.hope()
        for record in self.acceptance.values():
            record.refit()

    def speeds(self, load: Load) -> Vector:
        """Expected tokens per second of every action over those of plain decoding; shape [actions]."""
        return self._speeds(load)[0]

    @property
    def blind(self) -> bool:
        """Whether there is no cost model to choose by."""
        return self.tracker is None

    def predict(self, load: Load, draft_length: int) -> Prediction | None:
        """What a draft length is expected to bring, whether it was chosen here or not; None where there is no number.

        Looks at nothing that `choose` leaves behind: a gate that no longer moves can be told from one that need not.
        """
        if self.tracker is None or not _sound(load):
            return None
        speeds = self.speeds(load)
        best = float(speeds.max())
        return Prediction(float(speeds[self._index[draft_length]]), best) if math.isfinite(best) else None

    def break_even(self) -> float | None:
        """Acceptance rate from which drafting one token pays for a request alone, where speculation pays first.

        At the context length of the last decision; None before there is a cost model. Clipped to 0…1.
        """
        if self.tracker is None or 1 not in self._index:
            return None
        cycles = self._terms(Load(1, self._context)) @ self.tracker.mean
        return float(np.clip(cycles[self._index[1]] / cycles[0] - 1.0, 0.0, 1.0))

    def describe(self) -> dict[str, Any]:
        """State, counters, what is decided by, and trace as JSON types."""
        return {
            "state": self.state.value,
            "steps": self._steps,
            "draft_length": self.action.draft_length,
            "switches": self.switches,
            "restarts": self.tracker.restarts if self.tracker else 0,
            "probe_seconds": self.probing.spent,
            "noise": self.tracker.noise if self.tracker else None,
            "cost_model": self._described(),
            "trace": [
                {
                    "step": decision.step,
                    "batch": decision.load.batch,
                    "context": decision.load.context,
                    "state": decision.state.value,
                    "drafter": decision.action.drafter,
                    "draft_length": decision.action.draft_length,
                    "speedup": None if math.isnan(decision.speedup) else decision.speedup,
                    "why": decision.why,
                }
                for decision in self.trace
            ],
        }

    def _described(self) -> dict[str, Any] | None:
        if self.tracker is None:
            return None
        return Described.of(self.tracker.model, self.acceptance[self._drafter], self.actions).model_dump(mode="json")

    def _speeds(self, load: Load) -> tuple[Vector, Vector]:
        """`speeds`, and the expected seconds of a cycle of every action."""
        assert self.tracker is not None
        cycles = self._terms(load).dot(self.tracker.mean)  # half the time of @ on so few
        return self._lengths(load) * (cycles[0] / cycles), cycles

    def _lengths(self, load: Load) -> Vector:
        return self.acceptance[self._drafter].lengths(load.context)[self._draft_lengths]

    def _terms(self, load: Load) -> Vector:
        """Terms of one cycle of every action; shape [actions, terms]. Kept for the latest loads."""
        assert self.tracker is not None
        level = round(_PER_DOUBLING * math.log2(1.0 + load.context))
        key = (load.batch, level)
        terms = self._cycles.get(key)
        if terms is None:
            terms = self.tracker.terms.cycles(load.batch, 2.0 ** (level / _PER_DOUBLING) - 1.0, self.actions)
            self._cycles[key] = terms
            if len(self._cycles) > _CACHED_LOADS:
                self._cycles.popitem(last=False)
        return terms

    def _terms_of(self, step: Step) -> Vector:
        """Terms of a finished step; those of a whole cycle where it drafted as far as it verified."""
        assert self.tracker is not None
        if step.verified == step.asked and step.asked in self._index:
            return self._terms(step.load)[self._index[step.asked]]
        return self.tracker.terms.step(*step.load, step.verified, step.asked, self._drafter)

    def _doubts(self, load: Load, other: int) -> Vector:
        """Relative standard deviation of the speed of every action over that of `other`; shape [actions]."""
        assert self.tracker is not None
        terms = self._terms(load)
        relative = terms / terms.dot(self.tracker.mean)[:, None]
        relative = relative - relative[other]
        cost = (relative.dot(self.tracker.covariance) * relative).sum(axis=1)
        record = self.acceptance[self._drafter]
        length = (record.deviations(load.context) / record.lengths(load.context))[self._draft_lengths]
        return np.sqrt(np.maximum(cost, 0.0) + length**2)

    def _learn_cost(self, step: Step) -> None:
        if not (step.decode_only and _sound(step.load) and _SHORTEST_STEP < step.seconds < _LONGEST_STEP):
            return
        plain = not step.verified and not step.asked
        self.probing.earn(step.load, step.seconds, plain)
        if self.tracker is not None:
            terms = self._terms_of(step)
            self.foresight.note(float(terms @ self.tracker.mean), step.seconds)
            self.tracker.observe((step.verified, step.asked), terms, step.seconds)
        elif plain:
            self._learn_baseline(step)

    def _learn_baseline(self, step: Step) -> None:
        self.probing.lend(step.seconds)
        self._baseline.append(step)
        if len(self._baseline) < BASELINE_STEPS:
            return
        terms = Terms(tuple(self.acceptance), self._padding)
        prior = self._prior.scaled(terms, *step.load, median(one.seconds for one in self._baseline))
        self.tracker = Tracker(CostModel(terms, prior.mean(terms), prior.covariance(terms), 0.05))
        for one in self._baseline:  # the scale of all is taken from them; that T_T is known, is not yet
            self.tracker.observe((0, 0), self._terms_of(one), one.seconds)

    def _settle(self, load: Load, state: State, index: int, speedup: float, why: str) -> int:
        action = self.actions[index]
        if state is not self.state or action != self.action:
            self.switches += action != self.action
            self.state, self.action = state, action
            self.trace.append(Decision(self._steps, load, state, action, speedup, why))
        return action.draft_length


def _sound(load: Load) -> bool:
    """Whether these are numbers that an engine can have."""
    return 1 <= load.batch <= _MOST_REQUESTS and 0.0 <= load.context <= _LONGEST_CONTEXT
