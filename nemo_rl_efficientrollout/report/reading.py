"""Read a run's report.json into typed parts, so that drawing never meets a surprise.

What a report may lack becomes an empty list or None here and is named on the page. What it must have but lacks is an
error that names the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.account import PARTS
from nemo_rl_efficientrollout.report.checked import Series, columns, entries, mapping, number, series
from nemo_rl_efficientrollout.report.rollout import Timeline, read_timelines

MOST_STEPS = 10**6
FACTS = ("name", "settings", "model", "machine", "steps", "tokens")
TRAINING = ("reward", "rollout_seconds", "train_seconds", "refit_seconds")
# A run without speculation has none of these, and its report is still worth reading.
SPECULATION = (
    *("acceptance_rate", "acceptance_length", "speculating_fraction"),
    *("drafter_version_lag", "requantize_seconds"),
)
SPENT = (*PARTS, "between")
"""What seconds of rollouts are spent on; `between` engine steps is the engine's own work and the caller's."""
NESTED = {
    "response": ("response_tokens", ("mean", "median", "max")),
    "spent": ("seconds_spent", SPENT),
    "predicted": ("predicted_ratio", ("p10", "median", "p90")),
}
"""Series that are written as one dict per step: how their names begin here, their key, and the keys within."""


@dataclass(frozen=True)
class Ratio:
    """Rollout seconds, self-speculative / plain, over side-by-side pairs."""

    median: float
    min: float
    max: float
    pairs: int


@dataclass(frozen=True)
class Alarm:
    """Something that a person ought to see."""

    step: int
    name: str
    text: str


@dataclass(frozen=True)
class Run:
    """A whole report. Every list in `series` has one entry per training step of `numbers`."""

    name: str
    settings: dict[str, Any]
    model: dict[str, Any]
    machine: dict[str, Any]
    steps: int
    tokens: float | None
    numbers: list[int]
    series: dict[str, Series]
    timelines: list[Timeline] = field(default_factory=list)
    ratio: Ratio | None = None
    alarms: list[Alarm] = field(default_factory=list)


def series_names() -> tuple[str, ...]:
    """Every series that a run has, known or not."""
    return (*TRAINING, *SPECULATION, *(f"{start}_{name}" for start, (_, names) in NESTED.items() for name in names))


def read(report: Mapping[str, Any]) -> Run:
    """Check `report` and give its parts; `UserError` names the first key that is wrong."""
    if not isinstance(report, Mapping):
        raise UserError(f"the report is {type(report).__name__}, expected key and value: is it a run's report.json?")
    for key in (*FACTS, *TRAINING):
        if key not in report:
            raise UserError(f"the report has no '{key}': is it the report.json of a run?")
    steps = number(report["steps"], "steps")
    if steps is None or not 0 <= steps <= MOST_STEPS:
        raise UserError(f"the report's 'steps' must be the number of finished steps, 0 to {MOST_STEPS}")

    found = {key: series(report.get(key), key) for key in (*TRAINING, *SPECULATION)}
    for start, (key, names) in NESTED.items():
        found |= {f"{start}_{name}": values for name, values in columns(report.get(key), key, names).items()}
    # A run killed within a step has written some lists one entry further than others; `steps` beyond all of them is
    # a claim without a value.
    count = max(len(values) for values in found.values())
    return Run(
        name=str(report["name"]),
        settings=mapping(report["settings"], "settings"),
        model=mapping(report["model"], "model"),
        machine=mapping(report["machine"], "machine"),
        steps=int(steps),
        tokens=number(report["tokens"], "tokens"),
        numbers=list(range(1, count + 1)),
        series={key: values + [None] * (count - len(values)) for key, values in found.items()},
        timelines=read_timelines(report.get("timeline"), count),
        ratio=_ratio(report.get("rollout_ratio")),
        alarms=_alarms(report.get("alarms")),
    )


def _alarms(value: object) -> list[Alarm]:
    found = []
    for row in (mapping(item, "alarms") for item in entries(value, "alarms")):
        step = number(row.get("step"), "alarms.step")
        if step is None:
            raise UserError("the report's 'alarms' holds one without a 'step', expected step, name and text")
        found.append(Alarm(int(step), str(row.get("name", "")), str(row.get("text", ""))))
    return sorted(found, key=lambda alarm: alarm.step)


def _ratio(value: object) -> Ratio | None:
    row = mapping(value, "rollout_ratio")
    median = number(row.get("median"), "rollout_ratio.median")
    if median is None:
        return None
    low, high = (number(row.get(key), f"rollout_ratio.{key}") for key in ("min", "max"))
    pairs = row.get("pairs")
    # A count, or the pairs themselves.
    count = len(pairs) if isinstance(pairs, list) else int(number(pairs, "rollout_ratio") or 1)
    return Ratio(
        median=median,
        min=median if low is None else low,
        max=median if high is None else high,
        pairs=count,
    )
