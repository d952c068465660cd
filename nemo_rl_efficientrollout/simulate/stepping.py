"""A sampled rollout, engine step by engine step: the obvious way, for gates that learn from what happens.

Every step verifies the drafts of the step before and drafts for the step after, as the engine does. Which drafts are
accepted is drawn; tokens are whole numbers; what a request does not want of its last cycle is thrown away.
"""

import numpy as np

from ..gate.gates import Gate, Thoughtless
from ..gate.step import Load, Step
from ..gate.terms import Vector
from .acceptance import AcceptanceCurve
from .batching import Batch, Limits
from .costs import Costs
from .policies import Policy
from .rollout import Recorder, Rollout
from .workload import Counts, Workload


class PolicyGate(Thoughtless):
    """A policy in the place of a gate, asked step by step."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def choose(self, load: Load) -> int:
        batch, context = np.array([float(load.batch)]), np.array([load.context])
        lengths = self._policy.plan(batch, context)
        self._policy.ran(batch, context, lengths)
        return int(lengths[0])


class Engine:
    """One engine; its random numbers go on from rollout to rollout."""

    def __init__(
        self,
        costs: Costs,
        acceptance: AcceptanceCurve,
        gate: Gate,
        limits: Limits | None = None,
        max_requests: int = 2**31,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`max_requests` is the largest batch that is drafted for; `noise` the relative deviation of a step's time."""
        self._costs, self._acceptance, self._gate = costs, acceptance, gate
        self._limits, self._max_requests, self._noise = limits or Limits(), max_requests, noise
        self._random = np.random.default_rng(seed)

    def rollout(self, workload: Workload) -> Rollout:
        """Generate all of it. Raises UserError for a request that the KV cache can never hold."""
        batch = Batch(workload, self._limits)
        record = Recorder(np.zeros(len(workload)))
        pending = np.zeros(len(workload), dtype=np.int64)  # drafts that wait for their verification
        while not batch.done:
            prompts = batch.admit(record.now)
            if len(prompts):
                record.prefill(self._costs.prefill(prompts))
            elif not len(batch.running) and batch.next_arrival is not None:
                record.wait(batch.next_arrival)
                continue
            batch.make_room()
            pending = self._step(batch, record, pending)
        return record.rollout(batch.preemptions)

    def _step(self, batch: Batch, record: Recorder, pending: Counts) -> Counts:
        running, contexts, drafted = batch.running, batch.context(), pending[batch.running]
        load = Load(len(running), float(contexts.mean()))
        verified = int(drafted.max())
        asked = self._gate.choose(load) if load.batch <= self._max_requests else 0
        parts = self._seconds(load, verified, asked)
        accepted = self._accepted(drafted, contexts)
        tokens = np.minimum(accepted + 1, batch.remaining())
        seconds = sum(part[0] for part in parts)
        ends = record.decode(
            np.array([float(load.batch)]),
            np.array([load.context]),
            np.array([verified]),
            parts,
            np.array([float(tokens.sum())]),
            np.ones(1),
            np.array([float(np.count_nonzero(drafted))]),
            np.array([float(accepted.sum())]),
        )
        record.finished[batch.advance(tokens)] = ends[0]
        if self._gate.learns:
            speculated = drafted > 0
            self._gate.observe(
                Step(
                    load,
                    verified,
                    asked,
                    seconds,
                    decode_only=True,
                    drafted=drafted[speculated].tolist(),
                    accepted=accepted[speculated].tolist(),
                    contexts=contexts[speculated].tolist(),
                )
            )
        following = np.zeros_like(pending)
        following[batch.running] = asked
        return following

    def _seconds(self, load: Load, verified: int, asked: int) -> tuple[Vector, Vector, Vector]:
        batch, context, none = np.array([float(load.batch)]), np.array([load.context]), np.zeros(1)
        factor = float(np.exp(self._random.normal(0.0, self._noise))) if self._noise else 1.0
        length = np.array([float(verified)])
        plain = none if verified else factor * self._costs.plain(batch, context)
        verify = factor * self._costs.verify(batch, context, length) if verified else none
        draft = factor * asked * self._costs.draft(batch, context, np.array([float(asked)])) if asked else none
        return plain, draft, verify

    def _accepted(self, drafted: Counts, contexts: Counts) -> Counts:
        """How many leading drafts of each request are accepted; shape [requests]."""
        longest = int(drafted.max())
        if not longest:
            return np.zeros_like(drafted)
        self._acceptance.check(longest)
        rates = self._acceptance.at(contexts)[:, :longest]
        kept = self._random.random(rates.shape) < rates
        return np.minimum(np.cumprod(kept, axis=1).sum(axis=1), drafted)
