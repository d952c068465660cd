"""Whether steps take as long as was foretold: of the cost model as it was before it learned from them."""

from dataclasses import dataclass

MOST = 2.0
"""A step counts as at most so many times its prediction, and at least that fraction of it: a compilation or a
neighbour's burst is not the model's fault, a machine that became slow is seen all the same."""


@dataclass(slots=True)
class Foresight:
    """Over all decode steps from which costs are learned, in seconds."""

    predicted: float = 0.0
    measured: float = 0.0

    def note(self, predicted: float, measured: float) -> None:
        """Count one step."""
        self.predicted += predicted
        self.measured += min(max(measured, predicted / MOST), predicted * MOST)
