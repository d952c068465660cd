"""Whether what a test is about really happened: told by vLLM's own scheduler and detokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from vllm import LLM
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
from vllm.v1.request import RequestStatus

from tests.engines import drafted_and_accepted, stats


@dataclass(slots=True)
class Witness:
    """Counts of what happened to drafts. `…_inside`: answers that ended with tokens left over behind the end."""

    drafted: int = 0
    accepted: int = 0
    stopped_inside: int = 0
    """By a stop token or EOS."""
    capped_inside: int = 0
    """By max_tokens or max_model_len. The scheduler cuts drafts that would go beyond the latter."""
    capped_by_draft: int = 0
    """Answers that reached either limit with a step that accepted drafts."""
    spelled_inside: int = 0
    """By a stop string."""
    preempted: int = 0

    @property
    def rejected(self) -> int:
        return self.drafted - self.accepted


@contextmanager
def watch(llm: LLM) -> Iterator[Witness]:
    """Watches everything until the end of the block; drafts are counted then."""
    seen, before = Witness(), stats(llm)
    update, preempt = Scheduler._update_request_with_output, Scheduler._preempt_request
    detokenize = BaseIncrementalDetokenizer.update

    def take_output(scheduler: Any, request: Any, tokens: list[int], *args: Any, **kwargs: Any) -> Any:
        came = len(tokens)
        kept, stopped = update(scheduler, request, tokens, *args, **kwargs)
        seen.capped_by_draft += came > 1 and request.status == RequestStatus.FINISHED_LENGTH_CAPPED
        if stopped and len(kept) < came:
            seen.stopped_inside += request.status == RequestStatus.FINISHED_STOPPED
            seen.capped_inside += request.status == RequestStatus.FINISHED_LENGTH_CAPPED
        return kept, stopped

    def take_text(detokenizer: Any, tokens: list[int], *args: Any, **kwargs: Any) -> Any:
        came, length = len(tokens), detokenizer.num_output_tokens()
        stop = detokenize(detokenizer, tokens, *args, **kwargs)
        seen.spelled_inside += stop is not None and detokenizer.num_output_tokens() < length + came
        return stop

    def count_preemption(*args: Any, **kwargs: Any) -> Any:
        seen.preempted += 1
        return preempt(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "_update_request_with_output", take_output)
        patch.setattr(Scheduler, "_preempt_request", count_preemption)
        patch.setattr(BaseIncrementalDetokenizer, "update", take_text)
        yield seen
    seen.drafted, seen.accepted = drafted_and_accepted(llm, before)
