"""A cost model and the acceptance beside it as JSON types: enough to predict times and decisions again elsewhere."""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .acceptance import BUCKETS, Acceptance, bucket
from .action import Action
from .cost_model import CostModel
from .terms import Padding, Terms, Vector

Seconds = Annotated[float, Field(ge=0.0, le=1e6)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Described(BaseModel):
    """What a gate decided by at one moment, without its doubts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    drafters: Annotated[tuple[str, ...], Field(min_length=1)]
    padding: Padding
    draft_lengths: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1)]
    """γ on offer, ascending from 0."""
    parameters: dict[str, Seconds]
    """θ by name, in the unit that its name ends with."""
    acceptance: tuple[tuple[Rate, ...], ...]
    """α_i by bucket of context length, for i = 1…γ_max."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Described":
        if self.parameters.keys() != set(Terms(self.drafters).names):
            raise ValueError("the parameters are not those of this version's cost model")
        if self.draft_lengths != tuple(sorted({0, *self.draft_lengths})):
            raise ValueError("draft_lengths do not ascend from 0")
        longest = max(self.draft_lengths)
        if len(self.acceptance) != BUCKETS or any(len(rates) < longest for rates in self.acceptance):
            raise ValueError(f"acceptance is not {BUCKETS} rows of at least {longest} rates")
        return self

    @classmethod
    def of(cls, model: CostModel, acceptance: Acceptance, actions: tuple[Action, ...]) -> "Described":
        """Describe what a gate believes now."""
        return cls(
            drafters=model.terms.drafters,
            padding=model.terms.padding,
            draft_lengths=tuple(action.draft_length for action in actions),
            parameters=dict(zip(model.terms.names, model.mean.tolist(), strict=True)),
            acceptance=tuple(tuple(rates.tolist()) for rates in acceptance.rates_by_bucket()),
        )

    def cost_model(self) -> CostModel:
        """The model that was described; as nothing is said of its doubts, none are known."""
        terms = Terms(self.drafters, self.padding)
        mean = np.array([self.parameters[name] for name in terms.names])
        return CostModel(terms, mean, np.zeros((terms.size, terms.size)), 0.0)

    def lengths(self, context: float) -> Vector:
        """τ of each γ on offer at a context length; shape [draft_lengths]."""
        reach = np.cumprod(self.acceptance[bucket(context)])
        return np.cumsum(np.concatenate([[1.0], reach]))[list(self.draft_lengths)]
