"""Figures of a plan and of a sweep."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..report.style import BLUE, GRAY, GREEN, ORANGE, PURPLE, Figure, axis, figure, rounded
from ..simulate import Rollout
from .forecast import PLAIN, Forecast, Spread, Way
from .memory import GIB, RESERVE_BYTES
from .sweep import AXES, FORMAT, Answer

HEIGHT, SMALL = 300, 240
POINTS = 300
"""Of a line."""
COLOURS = {PLAIN: GRAY, "int4": ORANGE, "int4_symmetric": PURPLE, "int8": BLUE, "fp8": GREEN, "fp8_block": "#b8474f"}
Drawn = tuple[str, str, Figure]
"""Element id, title and figure."""


def draw(found: Forecast) -> Iterator[Drawn]:
    """Everything of one plan."""
    ways = [way for way in (found.plain, *found.ways) if way.step_s]
    if ways:
        yield "rollout-seconds", "Rollout", _bars(ways, lambda way: way.rollout_s, "s")
        yield "step-seconds", "Training step", _bars(ways, lambda way: way.step_s, "s")
    formats = [way for way in ways if way.rollout_ratio and way.name != PLAIN]
    if formats:
        yield "ratio", "Rollout: plain / with a drafter", _bars(formats, lambda way: way.rollout_ratio, "×", line=1.0)
    yield "memory", "Memory of one GPU", _memory([found.plain, *found.ways])
    if found.rollouts:
        yield "active", "Requests of the last engine, in one draw", _active(found)
    yield "lengths", "Response lengths", _lengths(found)


def multiples(answers: Sequence[Answer]) -> Iterator[tuple[str, str, list[Drawn]]]:
    """For every swept axis its name, title and row of small figures."""
    for name in dict.fromkeys(answer.point.axis for answer in answers):
        row = [answer for answer in answers if answer.point.axis == name]
        title = "the format alone" if name == FORMAT else AXES[name][0]
        yield (
            name,
            title,
            [
                (f"{name}-rollout", "Rollout", _swept(row, lambda way: way.rollout_s, "s", plain=True)),
                (f"{name}-ratio", "Plain / with a drafter", _swept(row, lambda way: way.rollout_ratio, "×")),
                (f"{name}-step", "Training step", _swept(row, lambda way: way.step_s, "s", plain=True)),
                (f"{name}-speculating", "Time speculating", _swept(row, lambda way: way.speculating, "share")),
            ],
        )


def _bars(ways: Sequence[Way], value: Callable[[Way], Spread | None], unit: str, line: float | None = None) -> Figure:
    spreads = [spread for way in ways if (spread := value(way))]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([spread.middle for spread in spreads]),
        "y": [way.name for way in ways],
        "marker": {"size": 10, "color": [COLOURS[way.name] for way in ways]},
        "error_x": _error(spreads),
        "hovertemplate": f"%{{y}}: %{{x:.3g}} {unit}<extra></extra>",
    }
    shapes = [] if line is None else [_line(line)]
    return figure(
        [trace],
        80 + 36 * len(ways),
        hovermode="closest",
        xaxis=axis(unit, rangemode="tozero" if line is None else "normal"),
        yaxis=axis(autorange="reversed", showgrid=False),
        shapes=shapes,
    )


def _memory(ways: Sequence[Way]) -> Figure:
    parts: list[tuple[str, str, Callable[[Way], float]]] = [
        ("policy", BLUE, lambda way: way.memory.policy),
        ("drafter", ORANGE, lambda way: way.memory.drafter + way.memory.distributions),
        ("set aside", GRAY, lambda way: RESERVE_BYTES),
        ("KV cache", GREEN, lambda way: max(way.memory.kv, 0.0)),
    ]
    data: list[Figure] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": rounded([size(way) / GIB for way in ways]),
            "y": [way.name for way in ways],
            "marker": {"color": colour},
        }
        for name, colour, size in parts
    ]
    return figure(
        data,
        110 + 32 * len(ways),
        barmode="stack",
        hovermode="closest",
        xaxis=axis("GiB"),
        yaxis=axis(autorange="reversed", showgrid=False),
        shapes=[_line(ways[0].memory.room / GIB)],
    )


def _active(found: Forecast) -> Figure:
    names = [PLAIN, *([found.best.name] if found.best.name != PLAIN else [])]
    data = [_steps(name, found.rollouts[name]) for name in names if name in found.rollouts]
    return figure(data, HEIGHT, showlegend=True, xaxis=axis("s"), yaxis=axis("requests", type="log", dtick=1))


def _steps(name: str, rollout: Rollout) -> Figure:
    timeline = rollout.timeline
    kept = np.unique(np.linspace(0, len(timeline.start) - 1, POINTS).astype(int))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": rounded([*timeline.start[kept].tolist(), rollout.seconds]),
        "y": [*timeline.batch[kept].tolist(), timeline.batch[-1]],
        "line": {"color": COLOURS[name], "width": 2, "shape": "hv"},
    }


def _lengths(found: Forecast) -> Figure:
    lengths = found.scenario.response_lengths
    shares = (np.arange(POINTS) + 0.5) / POINTS
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": lengths.quantile(shares).tolist(),
        "y": rounded((1.0 - shares).tolist()),
        "line": {"color": BLUE, "width": 2},
    }
    return figure([trace], HEIGHT, xaxis=axis("tokens"), yaxis=axis("share that is longer", rangemode="tozero"))


def _swept(answers: Sequence[Answer], value: Callable[[Way], Spread | None], unit: str, plain: bool = False) -> Figure:
    """A line with its range for each format, over the values of one axis; dots where they have no order."""
    ordered = answers[0].point.axis != FORMAT
    found = {way.name for answer in answers for way in answer.forecast.ways}
    names = [name for name in COLOURS if name in found]
    data: list[Figure] = []
    for name in [*([PLAIN] if plain else []), *names]:
        known = [
            (answer.point.value, spread)
            for answer in answers
            for way in (answer.forecast.plain, *answer.forecast.ways)
            if way.name == name and (spread := value(way))
        ]
        if known:
            trace: dict[str, Any] = {
                "type": "scatter",
                "mode": "lines+markers" if ordered else "markers",
                "name": name,
                "x": [at for at, _ in known],
                "y": rounded([spread.middle for _, spread in known]),
                "line": {"color": COLOURS[name], "width": 2},
                "marker": {"size": 7, "color": COLOURS[name]},
                "error_y": _error([spread for _, spread in known]) | {"color": COLOURS[name], "thickness": 1},
            }
            data.append(trace)
    x = axis(answers[0].point.axis, type="linear" if ordered else "category")
    return figure(data, SMALL, hovermode="closest", showlegend=True, xaxis=x, yaxis=axis(unit, rangemode="tozero"))


def _error(spreads: Sequence[Spread]) -> Figure:
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded([spread.high - spread.middle for spread in spreads]),
        "arrayminus": rounded([spread.middle - spread.low for spread in spreads]),
        "color": GRAY,
        "thickness": 2,
    }


def _line(x: float) -> Figure:
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": GRAY, "width": 1.5, "dash": "dash"},
    }  # fmt: skip
