"""Continuous batching: who runs, who waits, and the KV cache that they share.

As vLLM's scheduler does it: first come, first served; a request is admitted when a slot is free and its tokens fit;
when the cache runs out the request that was admitted last gives all its blocks back, and waits at the head of the
queue until its prompt and what it has generated can be prefilled again.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .workload import Counts, Workload


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine can hold."""

    requests: int = 256
    """Most that decode at once (vLLM's max_num_seqs)."""
    kv_tokens: int = 2**40
    """Room of the KV cache."""
    block: int = 16
    """Tokens of one KV block; a request holds whole blocks."""
    lookahead: int = 0
    """Slots reserved for each request beyond its next token: γ_max where drafts are written into the same cache."""
    prefix_caching: bool = True
    """Whether requests of one group prefill their prompt once. Its blocks are still counted for each of them."""

    def __post_init__(self) -> None:
        if self.requests < 1 or self.block < 1 or self.lookahead < 0:
            raise UserError(
                f"limits: requests {self.requests}, block {self.block}, lookahead {self.lookahead}; expected at least"
                " 1, 1 and 0; correct them"
            )

    @property
    def blocks(self) -> int:
        return self.kv_tokens // self.block

    def needs(self, context: Counts) -> Counts:
        """Blocks with which requests of these context lengths can take one more step."""
        return -(-(context + 1 + self.lookahead) // self.block)


class Batch:
    """The requests of one engine."""

    def __init__(self, workload: Workload, limits: Limits) -> None:
        self.workload, self.limits = workload, limits
        self.generated: Counts = np.zeros(len(workload), dtype=np.int64)
        self.running: Counts = np.zeros(0, dtype=np.int64)
        """Indices of requests that decode, in the order of their admission."""
        self.preemptions = 0
        self._waiting: deque[int] = deque()
        self._arrived = 0
        self._cached: set[int] = set()
        whole = limits.needs(workload.prompt + workload.response - 1)
        worst = int(np.argmax(whole))
        if whole[worst] > limits.blocks:
            raise UserError(
                f"request {worst} needs {whole[worst] * limits.block} tokens of KV cache, the engine has"
                f" {limits.blocks * limits.block}; give it more, or shorten the request"
            )

    @property
    def done(self) -> bool:
        return not len(self.running) and not self._waiting and self.next_arrival is None

    @property
    def next_arrival(self) -> float | None:
        """When the next request comes, if one does."""
        return float(self.workload.arrival[self._arrived]) if self._arrived < len(self.workload) else None

    @property
    def queued(self) -> bool:
        """Whether somebody waits for a slot or for room."""
        return bool(self._waiting)

    def context(self) -> Counts:
        """Tokens of each running request, prompt included."""
        return self.workload.prompt[self.running] + self.generated[self.running]

    def remaining(self) -> Counts:
        """Tokens that each running request still has to generate."""
        return self.workload.response[self.running] - self.generated[self.running]

    def admit(self, now: float) -> Vector:
        """Start whoever can start; tokens that each of them has to prefill."""
        arrived = int(np.searchsorted(self.workload.arrival, now, side="right"))
        self._waiting.extend(range(self._arrived, arrived))
        self._arrived = max(self._arrived, arrived)
        free = self.limits.blocks - self._held(self.context())
        new, prefill = [], []
        while self._waiting and len(self.running) + len(new) < self.limits.requests:
            request = self._waiting[0]
            context = self.workload.prompt[request] + self.generated[request]
            free -= int(self.limits.needs(context))
            if free < 0:
                break
            new.append(self._waiting.popleft())
            prefill.append(self._to_prefill(request))
        self.running = np.concatenate([self.running, np.array(new, dtype=np.int64)])
        return np.array(prefill, dtype=float)

    def make_room(self) -> None:
        """Preempt until every running request has the slots of its next step."""
        while self._held(self.context()) > self.limits.blocks:
            self._waiting.appendleft(int(self.running[-1]))
            self.running = self.running[:-1]
            self.preemptions += 1

    def steps_that_fit(self, most: int) -> int:
        """Of the next `most` tokens of every running request, how many surely fit; at least the first."""
        context, remaining = self.context(), self.remaining()
        last = context + np.minimum(remaining, most) - 1
        if self._held(last) <= self.limits.blocks:  # nobody gives anything back meanwhile, and still it fits
            return most
        low, high = 1, min(most, int(remaining.min()))  # what is held only grows until somebody ends
        if self._held(context + high - 1) <= self.limits.blocks:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._held(context + middle - 1) <= self.limits.blocks else (low, middle)
        return low

    def advance(self, tokens: Counts | int) -> Counts:
        """Generate `tokens` for each running request, no more than it wants; indices of those that ended."""
        self.generated[self.running] += np.minimum(tokens, self.remaining())
        ended = self.remaining() == 0
        gone, self.running = self.running[ended], self.running[~ended]
        return gone

    def blocks_held(self) -> int:
        """KV blocks of the running requests, those for their next step included."""
        return self._held(self.context())

    def _held(self, context: Counts) -> int:
        return int(self.limits.needs(context).sum())

    def _to_prefill(self, request: int) -> int:
        """Tokens that are not in the cache: one if a sibling brought the prompt, all of them after a preemption."""
        group, generated = int(self.workload.group[request]), int(self.generated[request])
        shared = self.limits.prefix_caching and group in self._cached and not generated
        self._cached.add(group)
        return 1 if shared else max(1, int(self.workload.prompt[request]) + generated)
