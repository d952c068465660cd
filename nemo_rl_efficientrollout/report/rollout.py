"""The rollouts of a report: every engine step of each, and the gate as it was afterwards."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.described import Described
from nemo_rl_efficientrollout.report.checked import Series, entries, mapping, number, series

COLUMNS = (
    *("seconds", "active", "context", "draft_length", "asked", "drafted", "accepted"),
    *("decode_only", "step_seconds", "expected_seconds"),
)


@dataclass(frozen=True)
class Change:
    """The gate chose another γ at this load, and why."""

    batch: float
    context: float
    draft_length: int
    why: str


@dataclass(frozen=True)
class Gate:
    """What the gate decided by after a rollout, and what it changed during it."""

    seed: str
    described: Described
    changes: list[Change]


@dataclass(frozen=True)
class Timeline:
    """One rollout, one entry per engine step; every list has the same length, and 0 where nothing was recorded."""

    step: int
    seconds: list[float]
    active: list[float]
    context: list[float]
    draft_length: list[float]
    asked: list[float]
    drafted: list[float]
    accepted: list[float]
    decode_only: list[float]
    step_seconds: list[float]
    expected_seconds: list[float]
    gate: Gate | None = None


def read_timelines(value: object, steps: int) -> list[Timeline]:
    """The report's `timeline`; `steps` is the number of training steps. Raises UserError."""
    rows = [mapping(item, "timeline") for item in entries(value, "timeline")]
    first = max(steps - len(rows), 0) + 1  # unnumbered timelines belong to the last steps
    timelines = [_timeline(row, first + index, index) for index, row in enumerate(rows)]
    return [timeline for timeline in timelines if timeline.seconds]


def _timeline(row: dict[str, Any], step: int, index: int) -> Timeline:
    for key in ("seconds", "active"):
        if key not in row:
            raise UserError(f"the report's timeline {index} has no '{key}'")
    found: dict[str, Series] = {}
    count = len(entries(row["seconds"], "timeline.seconds"))
    for key in COLUMNS:
        values = series(row.get(key), f"timeline.{key}")
        if values and len(values) != count:
            raise UserError(f"the report's timeline {index} has {len(values)} '{key}' for {count} 'seconds'")
        found[key] = values or [None] * count
    # A point without a time or a batch cannot be placed; the rest of the line still can.
    placed = [i for i in range(count) if None not in (found["seconds"][i], found["active"][i])]
    placed.sort(key=lambda i: found["seconds"][i] or 0.0)
    given = number(row.get("step"), "timeline.step")
    return Timeline(
        step=step if given is None else int(given),
        **{key: [values[i] or 0.0 for i in placed] for key, values in found.items()},
        gate=_gate(mapping(row.get("gate"), "timeline.gate"), index),
    )


def _gate(row: dict[str, Any], index: int) -> Gate | None:
    model = row.get("cost_model")
    if model is None:
        return None
    try:
        described = Described.model_validate(model)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("cost_model", *first["loc"])))
        raise UserError(f"the report's timeline {index} has a gate whose {place} is wrong: {first['msg']}") from None
    rows = [mapping(item, "timeline.gate.trace") for item in entries(row.get("trace"), "timeline.gate.trace")]
    return Gate(str(row.get("seed", "")), described, [change for item in rows if (change := _change(item))])


def _change(row: dict[str, Any]) -> Change | None:
    values = [number(row.get(key), f"timeline.gate.trace.{key}") for key in ("batch", "context", "draft_length")]
    if None in values:
        return None
    batch, context, length = (value or 0.0 for value in values)
    return Change(batch, context, int(length), str(row.get("why", "")))
