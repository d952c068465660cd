"""A gate by name: what `gate.mode` of the settings can be."""

import random
from typing import Protocol

from ..config import GateSettings
from .action import Prediction
from .foresight import Foresight
from .policy import AutoGate
from .step import Load, Step


class Gate(Protocol):
    """Chooses γ before a step, learns from it after."""

    learns: bool
    """Whether it looks at loads and steps; one that does not is told neither, which saves time."""
    switches: int
    """Changes of action since it was made, by its own judgement."""
    foresight: Foresight
    """How long steps took and should have taken, if it has an opinion."""

    @property
    def blind(self) -> bool:
        """Whether it wants to know costs, and knows none."""
        ...

    def predict(self, load: Load, draft_length: int) -> Prediction | None:
        """What this draft length is expected to bring, if it expects anything."""
        ...

    def choose(self, load: Load) -> int:
        """γ in 0…γ_max for the step after the one that is being scheduled."""
        ...

    def observe(self, step: Step) -> None:
        """Learn from a finished step."""
        ...

    def refit(self) -> None:
        """The policy and its drafter have new weights."""
        ...

    def break_even(self) -> float | None:
        """Acceptance rate from which speculation pays somewhere, if it knows."""
        ...


class Thoughtless:
    """What gates without judgement have in common."""

    learns = False
    switches = 0
    foresight = Foresight()
    blind = False

    def predict(self, load: Load, draft_length: int) -> Prediction | None:
        return None

    def observe(self, step: Step) -> None:
        return

    def refit(self) -> None:
        return

    def break_even(self) -> float | None:
        return None


class FixedGate(Thoughtless):
    """Always the same γ; 0 is plain decoding."""

    def __init__(self, draft_length: int) -> None:
        self._draft_length = draft_length

    def choose(self, load: Load) -> int:
        return self._draft_length


class RandomGate(Thoughtless):
    """γ uniform over 0…γ_max at every step: exercises every change of length, for tests."""

    def __init__(self, max_draft_length: int, seed: int) -> None:
        self._max = max_draft_length
        self._random = random.Random(seed)

    def choose(self, load: Load) -> int:
        return self._random.randint(0, self._max)


def make_gate(settings: GateSettings, max_draft_length: int) -> Gate:
    """The gate that the settings name."""
    match settings.mode:
        case "auto":
            return AutoGate(max_draft_length)
        case "off":
            return FixedGate(0)
        case "fixed":
            assert settings.draft_length is not None  # validated in config
            return FixedGate(settings.draft_length)
        case "random":
            return RandomGate(max_draft_length, settings.seed)
