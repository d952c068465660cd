"""What a step costs, for whole arrays of loads at once."""

from typing import Protocol

import numpy as np

from ..gate.action import SELF
from ..gate.cost_model import CostModel
from ..gate.terms import KNOTS, Vector
from .workload import Counts


class Costs(Protocol):
    """Seconds by load. Arguments broadcast: B requests, S mean tokens of context, γ ≥ 1."""

    def plain(self, batch: Vector, context: Vector) -> Vector:
        """T_T."""
        ...

    def draft(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        """T_D, one of γ drafter steps."""
        ...

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        """T_V(γ)."""
        ...

    def prefill(self, lengths: Vector) -> float:
        """Prompts of these lengths, shape [prompts], in one pass."""
        ...


def cycles(costs: Costs, batch: Vector, context: Vector, lengths: Counts) -> tuple[Vector, Vector, Vector]:
    """Seconds of plain decoding, drafting and verifying in one cycle of each load; what does not happen takes none."""
    plain, draft, verify = (np.zeros(len(batch)) for _ in range(3))
    off, on = lengths == 0, lengths > 0
    if off.any():
        plain[off] = costs.plain(batch[off], context[off])
    if on.any():
        load = batch[on], context[on], lengths[on].astype(float)
        draft[on] = lengths[on] * costs.draft(*load)
        verify[on] = costs.verify(*load)
    return plain, draft, verify


class ModelCosts:
    """A fitted `CostModel` for arrays: the same numbers as its `seconds`."""

    def __init__(self, model: CostModel, drafter: str = SELF) -> None:
        self._padding = model.terms.padding
        blocks = ("target", "plain", "verify", f"draft.{drafter}")
        theta = [model.mean[model.terms.block(name)] for name in blocks]
        self._target, self._plain, self._verify, self._draft = theta

    def plain(self, batch: Vector, context: Vector) -> Vector:
        launch, request, kv, serial = self._plain
        each = launch + request * batch + (kv * batch + serial) * context / 1e3
        return _gemms(self._target, self._padded(batch)) + each

    def draft(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        request, kv, serial = self._draft[-3:]
        rows = np.ceil(batch / (length + 1.0)) * (length + 1.0) if self._padding.draft_to_cycle else batch
        return _gemms(self._draft[:-3], self._padded(rows)) + request * batch + (kv * batch + serial) * context / 1e3

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        launch, request, kv, serial, attention = self._verify
        queries = length + 1.0
        tokens = (kv * batch + serial + attention * batch * queries) * context / 1e3
        return _gemms(self._target, self._padded(batch * queries)) + launch + request * batch + tokens

    def prefill(self, lengths: Vector) -> float:
        attention = self._verify[-1] * 0.5 * np.sum(lengths**2) / 1e3
        return float(_gemms(self._target, np.array([np.sum(lengths)]))[0] + self._plain[0] + attention)

    def _padded(self, rows: Vector) -> Vector:
        sizes = np.array(self._padding.captured_rows, dtype=float)
        if not len(sizes):
            return rows
        at = np.searchsorted(sizes, rows)
        return np.where(at < len(sizes), sizes[np.minimum(at, len(sizes) - 1)], rows)


def _gemms(theta: Vector, rows: Vector) -> Vector:
    """Reading the weights once and the GEMM curve over rows; its last piece goes on."""
    heights = np.cumsum(theta)
    beyond = np.maximum(rows - KNOTS[-1], 0.0) * theta[-1] / (KNOTS[-1] - KNOTS[-2])
    return np.interp(rows, KNOTS, heights) + beyond


class Overhead:
    """What times of forward passes leave out, such as lm_head, sampling and host: seconds more for every step."""

    def __init__(self, costs: Costs, target_s: float, draft_s: float) -> None:
        """More for each step of the target, plain or verifying, and for each drafter step."""
        self._costs, self._target_s, self._draft_s = costs, target_s, draft_s

    def plain(self, batch: Vector, context: Vector) -> Vector:
        return self._costs.plain(batch, context) + self._target_s

    def draft(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._costs.draft(batch, context, length) + self._draft_s

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._costs.verify(batch, context, length) + self._target_s

    def prefill(self, lengths: Vector) -> float:
        return self._costs.prefill(lengths) + self._target_s


class Slowed:
    """The same machine, every step taking `factor` times as long: a straggler."""

    def __init__(self, costs: Costs, factor: float) -> None:
        self._costs, self._factor = costs, factor

    def plain(self, batch: Vector, context: Vector) -> Vector:
        return self._factor * self._costs.plain(batch, context)

    def draft(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._factor * self._costs.draft(batch, context, length)

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._factor * self._costs.verify(batch, context, length)

    def prefill(self, lengths: Vector) -> float:
        return self._factor * self._costs.prefill(lengths)
