"""Figures of a comparison: ratios with their intervals, and metrics over steps with bands."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..report.style import GRAY, Figure, axis, color_at, figure, rounded, step_axis
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
from .run import Run, Series

HEIGHT = 300
POINTS = 400  # more steps than this are thinned, keeping the extremes
BAND_POINTS = 200  # places at which a band is drawn, at most
LEAST_BAND = 8  # fewer steps have no spread to draw
OVER_STEPS = (
    *(GENERATION, PER_TOKEN, STEP_TIME, MEAN_TOKENS, REWARD, MISMATCH, ACCEPTANCE_RATE, ACCEPTANCE_LENGTH),
    *(f"{OWN}/speculating_fraction", f"{OWN}/draft_length_mean", f"{OWN}/predicted_speedup", "refit/requantize_s"),
)
"""Metrics that are drawn over steps where a run has them, in the order of the page."""


def draw(found: Sequence[Comparison]) -> Iterator[tuple[str, str, Figure]]:
    """Element id, title and figure of everything that there is to draw; all comparisons are with the same run A."""
    metrics = {name: compared.metric for one in found for name, compared in one.metrics.items()}
    ratios = [name for name, metric in metrics.items() if metric.by is By.RATIO]
    if ratios := [name for name in ratios if any(_estimate(one, name) is not None for one in found)]:
        labels = ", ".join(one.label for one in found)
        yield "ratios", f"{labels} / A with 95 % intervals", _ratios(found, [metrics[name] for name in ratios])
    for name in OVER_STEPS:
        if name in metrics:
            yield name.replace("/", "-"), metrics[name].title, _over_steps(found, metrics[name])
    if positions := [metric for name, metric in metrics.items() if name.startswith(BY_POSITION)]:
        yield "positions", "Acceptance by draft position, mean over steps", _positions(found, positions)


def _estimate(found: Comparison, name: str) -> float | None:
    compared = found.metrics.get(name)
    return compared and compared.estimate


def band_window(steps: int) -> int:
    """Steps that a band looks at: a tenth of the run, at least five, odd."""
    return max(5, steps // 10) | 1


def _ratios(found: Sequence[Comparison], metrics: Sequence[Metric]) -> Figure:
    """A dot and its interval for each metric and run; the line at 1 is the baseline."""
    data = []
    for i, one in enumerate(found, start=1):
        known = [one.metrics[m.name] for m in metrics if _estimate(one, m.name) is not None]
        data.append(_intervals(f"{one.label} / A", known, color_at(i)))
    # Names stand above their rows: beside them they would take a phone's whole width.
    names = {place: None for trace in data for place in trace["y"]}
    above = {"x": 0, "xref": "paper", "xanchor": "left", "yshift": 10 + 9 * len(found), "showarrow": False}
    return figure(
        data,
        100 + (26 + 20 * len(found)) * len(names),
        hovermode="closest",
        scattermode="group",
        xaxis=axis("ratio of medians", rangemode="normal"),
        yaxis=axis(autorange="reversed", showgrid=False, showticklabels=False),
        shapes=[_line(1.0)],
        annotations=[above | {"y": name, "text": name} for name in names],
    )


def _intervals(name: str, known: Sequence[Compared], color: str) -> Figure:
    bars, values = [c.interval for c in known], rounded([c.estimate for c in known])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "orientation": "h",
        "offsetgroup": name,
        "x": values,
        "y": [c.metric.title.split(" (")[0] for c in known],
        "marker": {"size": 10, "color": color},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": rounded([bar.high - x if bar else 0.0 for bar, x in zip(bars, values, strict=True)]),
            "arrayminus": rounded([x - bar.low if bar else 0.0 for bar, x in zip(bars, values, strict=True)]),
            "color": color,
            "thickness": 3,
        },
        "hovertemplate": f"%{{y}}, {name}: × %{{x:.3f}}<extra></extra>",
    }


def _over_steps(found: Sequence[Comparison], metric: Metric) -> Figure:
    """Each run's steps as dots, its running median as a line, and the middle 80 % of its neighbours as a band."""
    data: list[Figure] = []
    drawn: set[int] = set()
    first = min(one.steps[0] for one in found)
    for i, (label, run) in enumerate(_runs(found)):
        if series := run.series.get(metric.name):
            drawn |= series.keys()
            data += _traces(f"{label}: {run.name}", series, first, color_at(i))
    steps = sorted(drawn)
    room = 0.02 * (steps[-1] - steps[0]) + 0.5
    layout: Figure = {
        "xaxis": step_axis(steps) | {"range": [steps[0] - room, steps[-1] + room]},
        "yaxis": axis("" if metric.unit == "1" else metric.unit),
        "showlegend": True,
    }
    if found[0].skipped:
        layout["shapes"] = [_warm_up(found, first)]
    return figure(data, HEIGHT, **layout)


def _runs(found: Sequence[Comparison]) -> list[tuple[str, Run]]:
    """Every run by its letter; A is that of all comparisons."""
    return [("A", found[0].a), *((one.label, one.b) for one in found)]


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


def _positions(found: Sequence[Comparison], metrics: Sequence[Metric]) -> Figure:
    data: list[Figure] = []
    for i, (label, _) in enumerate(_runs(found)):
        compared = [(m, found[max(i - 1, 0)].metrics.get(m.name)) for m in metrics]
        summaries = [(m, c and (c.b if i else c.a)) for m, c in compared]
        known = [(m.title.split()[-1], summary.center) for m, summary in summaries if summary is not None]
        if known:
            data.append(
                {
                    "type": "bar",
                    "name": label,
                    "x": [position for position, _ in known],
                    "y": rounded([center for _, center in known]),
                    "marker": {"color": color_at(i)},
                }
            )
    return figure(
        data, HEIGHT, showlegend=True, xaxis=axis("draft position", type="category"), yaxis=axis("accepted / drafts")
    )


def _line(x: float) -> Figure:
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": GRAY, "width": 1.5, "dash": "dash"}, "layer": "below",
    }  # fmt: skip


def _warm_up(found: Sequence[Comparison], end: int) -> Figure:
    """Shades the steps that are left out."""
    first = min(training_steps(run)[0] for _, run in _runs(found))
    return {
        "type": "rect", "x0": first - 0.5, "x1": end - 0.5, "y0": 0, "y1": 1, "yref": "paper",
        "fillcolor": GRAY, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
