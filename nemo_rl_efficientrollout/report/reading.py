"""Read a run's report.json into typed parts, so that drawing never meets a surprise.

What a report may lack becomes an empty list or None here and "no values" on the page. What it
must have but lacks is an error that names the key.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from nemo_rl_efficientrollout.errors import UserError

Series = list[float | None]

MOST_STEPS = 10**6
FACTS = ("name", "settings", "model", "machine", "steps", "tokens")
TRAINING = ("reward", "rollout_seconds", "train_seconds", "refit_seconds")
# A run without speculation has none of these, and its report is still worth reading.
SPECULATION = (
    *("acceptance_rate", "acceptance_length", "speculating_fraction"),
    *("drafter_version_lag", "requantize_seconds"),
)


@dataclass(frozen=True)
class Timeline:
    """One rollout, one entry per engine step; every list has the same length."""

    step: int
    seconds: list[float]
    active: list[float]
    draft_length: list[float]
    drafted: list[float]
    accepted: list[float]
    step_seconds: list[float]


@dataclass(frozen=True)
class Ratio:
    """Rollout seconds, self-speculative / plain, over side-by-side pairs."""

    median: float
    min: float
    max: float
    pairs: int


@dataclass(frozen=True)
class Run:
    """A whole report. Every list in `series` has one entry per step of `numbers`."""

    name: str
    settings: dict[str, Any]
    model: dict[str, Any]
    machine: dict[str, Any]
    steps: int
    tokens: float | None
    numbers: list[int]
    series: dict[str, Series]
    timelines: list[Timeline]
    ratio: Ratio | None


def read(report: Mapping[str, Any]) -> Run:
    """Check `report` and give its parts; `UserError` names the first key that is wrong."""
    for key in (*FACTS, *TRAINING):
        if key not in report:
            raise UserError(f"the report has no '{key}': is it the report.json of a run?")
    steps = _number(report["steps"], "steps")
    if steps is None or not 0 <= steps <= MOST_STEPS:
        raise UserError(f"the report's 'steps' must be the number of finished steps, 0 to {MOST_STEPS}")

    series = {key: _series(report[key], key) for key in TRAINING}
    series |= {key: _series(report.get(key), key) for key in SPECULATION}
    series |= _lengths(report.get("response_tokens"))
    # A run killed within a step has written some lists one entry further than others.
    count = max(int(steps), *(len(values) for values in series.values()))
    return Run(
        name=str(report["name"]),
        settings=_mapping(report["settings"], "settings"),
        model=_mapping(report["model"], "model"),
        machine=_mapping(report["machine"], "machine"),
        steps=int(steps),
        tokens=_number(report["tokens"], "tokens"),
        numbers=list(range(1, count + 1)),
        series={key: values + [None] * (count - len(values)) for key, values in series.items()},
        timelines=_timelines(report.get("timeline"), count),
        ratio=_ratio(report.get("rollout_ratio")),
    )


def _number(value: object, key: str) -> float | None:
    """A finite number, or None: JSON writers turn NaN into null, or leave it as NaN."""
    if value is None:
        return None
    if not isinstance(value, Real):
        raise UserError(f"the report's '{key}' holds {value!r:.40}, expected a number")
    return float(value) if math.isfinite(float(value)) else None


def _list(value: object, key: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise UserError(f"the report's '{key}' is {type(value).__name__}, expected a list")
    return list(value)


def _mapping(value: object, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"the report's '{key}' is {type(value).__name__}, expected key and value")
    return {str(name): item for name, item in value.items()}


def _series(value: object, key: str) -> Series:
    return [_number(item, key) for item in _list(value, key)]


def _lengths(value: object) -> dict[str, Series]:
    """`response_tokens` turned from one dict per step into one series per statistic."""
    rows = [_mapping(item, "response_tokens") for item in _list(value, "response_tokens")]
    return {
        f"response_{name}": [_number(row.get(name), f"response_tokens.{name}") for row in rows]
        for name in ("mean", "median", "max")
    }


def _timelines(value: object, steps: int) -> list[Timeline]:
    rows = [_mapping(item, "timeline") for item in _list(value, "timeline")]
    first = max(steps - len(rows), 0) + 1  # unnumbered timelines belong to the last steps
    timelines = [_timeline(row, first + index, index) for index, row in enumerate(rows)]
    return [timeline for timeline in timelines if timeline.seconds]


def _timeline(row: dict[str, Any], step: int, index: int) -> Timeline:
    for key in ("seconds", "active"):
        if key not in row:
            raise UserError(f"the report's timeline {index} has no '{key}'")
    columns: dict[str, Series] = {}
    count = len(_list(row["seconds"], "timeline.seconds"))
    for key in ("seconds", "active", "draft_length", "drafted", "accepted", "step_seconds"):
        values = _series(row.get(key), f"timeline.{key}")
        if values and len(values) != count:
            raise UserError(f"the report's timeline {index} has {len(values)} '{key}' for {count} 'seconds'")
        columns[key] = values or [None] * count
    # A point without a time or a batch cannot be placed; the rest of the line still can.
    placed = [i for i in range(count) if None not in (columns["seconds"][i], columns["active"][i])]
    placed.sort(key=lambda i: columns["seconds"][i] or 0.0)
    number = _number(row.get("step"), "timeline.step")
    return Timeline(
        step=step if number is None else int(number),
        **{key: [values[i] or 0.0 for i in placed] for key, values in columns.items()},
    )


def _ratio(value: object) -> Ratio | None:
    row = _mapping(value, "rollout_ratio")
    median = _number(row.get("median"), "rollout_ratio.median")
    if median is None:
        return None
    low, high = (_number(row.get(key), f"rollout_ratio.{key}") for key in ("min", "max"))
    pairs = row.get("pairs")
    # A count, or the pairs themselves.
    count = len(pairs) if isinstance(pairs, list) else int(_number(pairs, "rollout_ratio") or 1)
    return Ratio(
        median=median,
        min=median if low is None else low,
        max=median if high is None else high,
        pairs=count,
    )
