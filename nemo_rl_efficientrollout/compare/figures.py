"""Figures of a comparison: ratios with their intervals, and metrics over steps with bands."""

from collections.abc import Iterator

import numpy as np

from ..report.style import BLUE, GRAY, ORANGE, Figure, axis, figure, rounded, step_axis
from ..report.thinning import keep_extremes
from .comparison import Compared, Comparison, training_steps
from .metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    BY_POSITION,
    GENERATION,
    MEAN_TOKENS,
    MISMATCH,
    OWN,
    PER_TOKEN,
    REWARD,
    STEP_TIME,
    By,
    Metric,
)
from .run import Series

A, B = BLUE, ORANGE
HEIGHT = 300
POINTS = 400  # more steps than this are thinned, keeping the extremes
BAND_POINTS = 200  # places at which a band is drawn, at most
LEAST_BAND = 8  # fewer steps have no spread to draw
OVER_STEPS = (
    *(GENERATION, PER_TOKEN, STEP_TIME, MEAN_TOKENS, REWARD, MISMATCH, ACCEPTANCE_RATE, ACCEPTANCE_LENGTH),
    *(f"{OWN}/speculating_fraction", f"{OWN}/draft_length_mean", f"{OWN}/predicted_speedup", "refit/requantize_s"),
)
"""Metrics that are drawn over steps where a run has them, in the order of the page."""


def draw(found: Comparison) -> Iterator[tuple[str, str, Figure]]:
    """Element id, title and figure of everything that there is to draw."""
    ratios = [c for c in found.metrics.values() if c.metric.by is By.RATIO and c.estimate is not None]
    if ratios:
        yield "ratios", "B / A with 95 % intervals", _ratios(ratios)
    for name in OVER_STEPS:
        if name in found.metrics:
            metric = found.metrics[name].metric
            yield name.replace("/", "-"), metric.title, _over_steps(found, metric)
    if positions := [c for name, c in found.metrics.items() if name.startswith(BY_POSITION)]:
        yield "positions", "Acceptance by draft position, mean over steps", _positions(positions)


def band_window(steps: int) -> int:
    """Steps that a band looks at: a tenth of the run, at least five, odd."""
    return max(5, steps // 10) | 1


def _ratios(ratios: list[Compared]) -> Figure:
    """A dot and its interval for each metric; the line at 1 is the baseline."""
    titles = [c.metric.title.split(" (")[0] for c in ratios]
    bars = [c.interval for c in ratios]
    values = rounded([c.estimate for c in ratios])
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "B / A",
        "x": values,
        "y": titles,
        "marker": {"size": 10, "color": B},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": rounded([bar.high - x if bar else 0.0 for bar, x in zip(bars, values, strict=True)]),
            "arrayminus": rounded([x - bar.low if bar else 0.0 for bar, x in zip(bars, values, strict=True)]),
            "color": B,
            "thickness": 3,
        },
        "hovertemplate": "%{y}: × %{x:.3f}<extra></extra>",
    }
    return figure(
        [trace],
        90 + 38 * len(ratios),
        hovermode="closest",
        xaxis=axis("B / A (ratio of medians)", rangemode="normal"),
        yaxis=axis(autorange="reversed", showgrid=False),
        shapes=[_line(1.0)],
    )


def _over_steps(found: Comparison, metric: Metric) -> Figure:
    """Each run's steps as dots, its running median as a line, and the middle 80 % of its neighbours as a band."""
    data: list[Figure] = []
    drawn: set[int] = set()
    for side, run, color in (("A", found.a, A), ("B", found.b, B)):
        if series := run.series.get(metric.name):
            drawn |= series.keys()
            data += _traces(f"{side}: {run.name}", series, found.steps[0], color)
    steps = sorted(drawn)
    room = 0.02 * (steps[-1] - steps[0]) + 0.5
    layout: Figure = {
        "xaxis": step_axis(steps) | {"range": [steps[0] - room, steps[-1] + room]},
        "yaxis": axis("" if metric.unit == "1" else metric.unit),
        "showlegend": True,
    }
    if found.skipped:
        layout["shapes"] = [_warm_up(found)]
    return figure(data, HEIGHT, **layout)


def _traces(name: str, series: Series, first: int, color: str) -> list[Figure]:
    """All steps as dots; line and band from step `first` on, where the warm-up is over."""
    few = len(series) < LEAST_BAND
    steps, values = list(series), list(series.values())
    kept = keep_extremes(steps, [values], POINTS)
    dots: Figure = {
        "type": "scatter",
        "mode": "lines+markers" if few else "markers",
        "name": name,
        "legendgroup": name,
        "x": [steps[i] for i in kept],
        "y": rounded([values[i] for i in kept]),
        "marker": {"size": 5, "color": color, "opacity": 0.45},
        "line": {"color": color, "width": 2},
        "showlegend": few,
    }
    warm = [step for step in steps if step >= first]
    if few or not warm:
        return [dots]
    places, low, middle, high = _band([series[step] for step in warm])
    line = {"type": "scatter", "mode": "lines", "x": [warm[i] for i in places], "legendgroup": name}
    edge = line | {"line": {"width": 0, "color": color}, "hoverinfo": "skip", "showlegend": False}
    filled = edge | {"fill": "tonexty", "fillcolor": f"{color}2e"}  # the last two digits are the opacity
    return [
        edge | {"name": f"{name}, low", "y": rounded(low)},
        filled | {"name": f"{name}, high", "y": rounded(high)},
        dots | {"hoverinfo": "skip"},
        line | {"name": name, "y": rounded(middle), "line": {"color": color, "width": 2}},
    ]


def _band(values: list[float]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Places, and 10th percentile, median and 90th percentile of their neighbours; fewer of them at the ends."""
    half = band_window(len(values)) // 2
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), BAND_POINTS)).round().astype(int)).tolist()
    windows = [values[max(0, i - half) : i + half + 1] for i in places]
    low, middle, high = np.array([np.quantile(window, [0.1, 0.5, 0.9]) for window in windows]).T.tolist()
    return places, low, middle, high


def _positions(positions: list[Compared]) -> Figure:
    data: list[Figure] = []
    for side, color in (("A", A), ("B", B)):
        summaries = [(c, c.a if side == "A" else c.b) for c in positions]
        known = [(c.metric.title.split()[-1], s) for c, s in summaries if s is not None]
        if known:
            data.append(
                {
                    "type": "bar",
                    "name": side,
                    "x": [position for position, _ in known],
                    "y": rounded([summary.center for _, summary in known]),
                    "marker": {"color": color},
                }
            )
    return figure(
        data, HEIGHT, showlegend=True, xaxis=axis("draft position", type="category"), yaxis=axis("accepted / drafts")
    )


def _line(x: float) -> Figure:
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": GRAY, "width": 1.5, "dash": "dash"},
    }  # fmt: skip


def _warm_up(found: Comparison) -> Figure:
    """Shades the steps that are left out."""
    first = min(training_steps(run)[0] for run in (found.a, found.b))
    return {
        "type": "rect", "x0": first - 0.5, "x1": found.steps[0] - 0.5, "y0": 0, "y1": 1, "yref": "paper",
        "fillcolor": GRAY, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
