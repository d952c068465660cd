"""A fitted cost model as a JSON file: units in its keys, where it comes from, nothing that could run as code.

The covariance is rounded to six significant digits and the means to twelve: predictions survive a round trip to 1e-9.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UserError, nearest, shown
from ..files import read_json, write_whole
from .cost_model import CostModel
from .prior import Prior
from .sweep import point
from .terms import Padding, Terms
from .timing import Timing

if TYPE_CHECKING:  # a calibration is read without scipy
    from .fit import Fit

SCHEMA = "efficientrollout.calibration"
VERSION = 1
_MEAN_DIGITS, _COVARIANCE_DIGITS, _WEIGHT_DIGITS = 12, 6, 3
MOST_DRAFTERS = 16
_ROUNDING = 1e-4
"""Relative difference that rounding may cause between numbers that say the same."""

Finite = Annotated[float, Field(ge=-1e24, le=1e24)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e12)]
"""Its square is `Finite`."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RowUsed(_Block):
    """One timing that the fit saw."""

    point: str
    """`batch,seq,gamma,mode` as in a sweep."""
    weight: NotNegative
    """0 (contradicted by all others) to 1.25."""


class Provenance(_Block):
    """Where the numbers come from. Empty: not known."""

    host: str = ""
    gpu: str = ""
    vllm: str = ""
    model: str = ""
    created: str = ""
    """ISO 8601, UTC."""
    source: str = ""
    """The sweep file's name, or the probe."""
    rows: tuple[RowUsed, ...] = ()


class Parameter(_Block):
    """One θ, in the unit that its name ends with."""

    mean: NotNegative
    std: NotNegative


class Hypothesis(_Block):
    """What the prior that won said of the machine (see `prior.Prior`)."""

    plain_s: NotNegative
    ridge_rows: NotNegative
    draft_ratio: NotNegative
    kv_per_ktoken: NotNegative
    attention_per_ktoken: NotNegative


class Calibration(_Block):
    """The whole file."""

    kind: Literal["efficientrollout.calibration"] = Field(default=SCHEMA, alias="schema")
    version: Literal[1] = VERSION
    provenance: Provenance
    padding: Padding
    drafters: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_DRAFTERS)]
    noise_relative: Annotated[float, Field(gt=0.0, le=1.0)]
    prior: Hypothesis
    parameters: dict[str, Parameter]
    covariance_s2: tuple[tuple[Finite, ...], ...]
    """Of all parameters, in their order."""

    @model_validator(mode="after")
    def _parameters_belong_to_the_drafters(self) -> "Calibration":
        if len(set(self.drafters)) < len(self.drafters):
            raise ValueError("drafters holds a name twice")
        names = self._terms().names
        unknown = next((name for name in self.parameters if name not in names), None)
        if unknown is not None:
            raise ValueError(f"unknown parameter '{unknown}'{nearest(unknown, names)}")
        missing = next((name for name in names if name not in self.parameters), None)
        if missing is not None:
            raise ValueError(f"parameter '{missing}' is missing")
        return self

    @model_validator(mode="after")
    def _covariance_is_one(self) -> "Calibration":
        size = len(self.parameters)
        if len(self.covariance_s2) != size or any(len(row) != size for row in self.covariance_s2):
            raise ValueError(f"covariance_s2 is not {size} rows of {size} numbers, one for each parameter")
        matrix = np.array(self.covariance_s2)
        deviations = np.array([parameter.std for parameter in self.parameters.values()])
        if not np.array_equal(matrix, matrix.T):
            raise ValueError("covariance_s2 is not symmetric")
        if not np.allclose(np.diag(matrix), deviations**2, rtol=_ROUNDING, atol=0.0):
            raise ValueError("covariance_s2 has another diagonal than the squares of std")
        if np.any(np.abs(matrix) > (1.0 + _ROUNDING) * np.outer(deviations, deviations)):
            raise ValueError("covariance_s2 holds a correlation above 1")
        return self

    def cost_model(self) -> CostModel:
        """The model that was saved."""
        terms = self._terms()
        order = [list(self.parameters).index(name) for name in terms.names]
        mean = np.array([self.parameters[name].mean for name in terms.names])
        return CostModel(terms, mean, np.array(self.covariance_s2)[np.ix_(order, order)], self.noise_relative)

    def _terms(self) -> Terms:
        return Terms(self.drafters, self.padding)


def from_fit(fit: "Fit", timings: Sequence[Timing], provenance: Provenance) -> Calibration:
    """The calibration of a fit to `timings`; the rows, and the date if none is given, are added to `provenance`."""
    model, prior = fit.model, fit.prior
    deviations = np.sqrt(np.maximum(np.diag(model.covariance), 0.0))
    rows = tuple(
        RowUsed(point=point(timing), weight=_rounded(weight, _WEIGHT_DIGITS))
        for timing, weight in zip(timings, fit.weights, strict=True)
    )
    created = provenance.created or datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(
        provenance=provenance.model_copy(update={"created": created, "rows": rows}),
        padding=model.terms.padding,
        drafters=model.terms.drafters,
        noise_relative=_rounded(model.noise, _MEAN_DIGITS),
        prior=_hypothesis(prior),
        parameters={
            name: Parameter(mean=_rounded(mean, _MEAN_DIGITS), std=_rounded(deviation, _MEAN_DIGITS))
            for name, mean, deviation in zip(model.terms.names, model.mean, deviations, strict=True)
        },
        covariance_s2=tuple(tuple(_rounded(x, _COVARIANCE_DIGITS) for x in row) for row in model.covariance),
    )


def save(calibration: Calibration, path: Path) -> None:
    """Write the file, whole or not at all; raises UserError."""
    text = _pretty(calibration.model_dump(mode="json", by_alias=True)) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a file in a folder that exists") from None


def load(path: Path) -> Calibration:
    """Read a file that `save` wrote.

    Raises:
        UserError: one line: no such file, no JSON, another schema or version, parameters that this version does not
            know, wrong shapes, numbers that are none or negative.
    """
    content = read_json(path, "write it with `efficientrollout gate fit`")
    found = (content.get("schema"), content.get("version"))
    if found != (SCHEMA, VERSION):
        raise UserError(
            f"{path} has schema {shown(found[0])} version {shown(found[1])}, expected '{SCHEMA}' version {VERSION}; "
            "write it anew with `efficientrollout gate fit`"
        )
    try:
        return Calibration.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}; write it anew with `efficientrollout gate fit`") from None


def check_matches(calibration: Calibration, gpu: str = "", model: str = "", vllm: str = "") -> str | None:
    """How this machine differs from the one that was calibrated, in one line; None if in nothing that is known."""
    differing = []
    for name, here in {"gpu": gpu, "model": model, "vllm": vllm}.items():
        there = getattr(calibration.provenance, name)
        if here and there and here != there:
            differing.append(f"{name} '{there}', here '{here}'")
    return f"calibrated for {'; '.join(differing)}" if differing else None


def _hypothesis(prior: Prior) -> Hypothesis:
    return Hypothesis(
        plain_s=prior.plain_seconds,
        ridge_rows=prior.ridge_rows,
        draft_ratio=prior.draft_ratio,
        kv_per_ktoken=prior.kv_per_ktoken,
        attention_per_ktoken=prior.attention_per_ktoken,
    )


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with a line for every entry of whatever holds more than plain values: made to be read and compared."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(entry, dict | list) for entry in entries):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + " "
    texts = [_pretty(entry, inner) for entry in entries]
    if isinstance(value, dict):
        texts = [f"{json.dumps(key)}: {text}" for key, text in zip(value, texts, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(texts) + f"\n{indent}{closing}"


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return str(first.get("ctx", {})["error"])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if first["type"] == "missing":
        return f"no key '{key}'"
    return f"{key} is {shown(first['input'])}, {first['msg'][0].lower()}{first['msg'][1:]}"
