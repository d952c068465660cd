"""What is to be planned: a policy on a cluster, a step's workload, and what the engine is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..config import Settings
from ..errors import UserError
from ..simulate import Workload, at_once
from .assumptions import Range
from .gpus import Gpu
from .lengths import Lengths
from .models import Model

GPUS_OF_A_NODE = 8
_DRAFT_LENGTH = Settings().draft_length


@dataclass(frozen=True)
class Scenario:
    """Everything that a plan depends on."""

    model: Model
    gpu: Gpu
    lengths: Lengths
    formats: tuple[str, ...]
    engines: int = GPUS_OF_A_NODE
    tensor_parallel: int = 1
    prompts: int = 128
    """Of one step."""
    samples: int = 8
    """Responses to each."""
    prompt_tokens: int = 350
    max_length: int | None = None
    """Tokens at which a response is cut off."""
    max_draft_length: int = _DRAFT_LENGTH.max
    most_drafted_for: int = _DRAFT_LENGTH.max_requests
    max_num_seqs: int = 256
    gpu_memory_utilization: float = 0.6
    lag: int = 0
    """Training steps that a rollout's policy may be behind; with more than 0 training has GPUs of its own."""
    training_gpus: int | None = None
    """With a lag; as many as generate by default."""
    rest_seconds: float | None = None
    """Measured time of a step beside its rollout; assumed where it is not given."""
    stragglers: int = 0
    """Engines that are slow; which ones is left to chance."""
    slowness: float = 1.5
    """Time of their steps over that of the others'."""
    rejected: Mapping[str, Range] = field(default_factory=dict)
    """1 - α by format, or for all under the empty name, where it is not to be assumed."""

    def __post_init__(self) -> None:
        if self.engines < 1 or self.prompts < 1 or self.samples < 1:
            raise UserError(
                f"{self.engines} engines, {self.prompts} prompts, {self.samples} samples; expected at least 1 of each"
            )
        if not 0 <= self.stragglers <= self.engines:
            raise UserError(f"{self.stragglers} stragglers of {self.engines} engines; expected none to all of them")

    @property
    def gpus(self) -> int:
        """That generate."""
        return self.engines * self.tensor_parallel

    @property
    def responses(self) -> int:
        """Of one step."""
        return self.prompts * self.samples

    @property
    def batch(self) -> float:
        """Responses of one engine in one step."""
        return self.responses / self.engines

    @property
    def response_lengths(self) -> Lengths:
        return self.lengths if self.max_length is None else self.lengths.cut(self.max_length)

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt included."""
        return self.prompt_tokens + int(self.response_lengths.spread(self.responses)[-1])

    def workload(self, chance: np.random.Generator) -> Workload:
        """One step's requests, in an order that is left to chance."""
        responses = chance.permutation(self.response_lengths.spread(self.responses))
        return at_once(np.full(self.responses, self.prompt_tokens), responses, self.samples)
