"""Prefill as it was measured through an engine: prompts cost other kernels, and a host that takes them in."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from ..errors import UserError
from ..gate.terms import Vector
from ..gate.timing import Prefill
from .costs import Costs


class MeasuredPrefill:
    """The costs of `decoding`; prefill by least squares of relative errors: once, per request, per token, per token².

    Taking the requests in is part of it. Prompts of more tokens than one step may have are several steps: that, too,
    is as it was measured.
    """

    def __init__(self, decoding: Costs, prefills: Sequence[Prefill]) -> None:
        """Raises UserError without a measurement."""
        if not prefills:
            raise UserError("no prefill was measured; give at least one")
        relative = np.stack([_terms(np.full(one.requests, float(one.prompt))) / one.seconds for one in prefills])
        scale = relative.max(axis=0)  # seconds and squares of tokens are many orders of magnitude apart
        theta, _ = nnls(relative / scale, np.ones(len(relative)))
        self._decoding, self._theta = decoding, theta / scale

    def plain(self, batch: Vector, context: Vector) -> Vector:
        return self._decoding.plain(batch, context)

    def draft(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._decoding.draft(batch, context, length)

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        return self._decoding.verify(batch, context, length)

    def prefill(self, lengths: Vector) -> float:
        return float(_terms(lengths) @ self._theta)


def _terms(lengths: Vector) -> Vector:
    return np.array([1.0, len(lengths), np.sum(lengths), np.sum(lengths**2)])
