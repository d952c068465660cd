"""Figures with one value per training step, and the comparison with plain rollouts.

Each function gives None when a run has no such values; the page then says so in words.
"""

from collections.abc import Sequence

from nemo_rl_efficientrollout.report.checked import Series
from nemo_rl_efficientrollout.report.reading import Ratio, Run
from nemo_rl_efficientrollout.report.style import (
    BLUE,
    BROWN,
    GRAY,
    GREEN,
    MANY_STEPS,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Figure,
    axis,
    figure,
    rounded,
    step_axis,
)
from nemo_rl_efficientrollout.report.thinning import keep_extremes

BUCKETS = 400  # more steps than this are thinned, keeping the extremes
HEIGHT = 270
PARTS = (
    ("spent_plain", "plain decoding", BLUE),
    ("spent_draft", "drafting", ORANGE),
    ("spent_verify", "verifying", RED),
    ("spent_undivided", "drafting and verifying", BROWN),
    ("spent_prefill", "steps with prefills", TEAL),
    ("spent_between", "between engine steps", GRAY),
    ("requantize_seconds", "re-quantizing", PURPLE),
)
"""What seconds are spent on, from the bottom of the stack up."""


def reward(run: Run) -> Figure | None:
    return _lines(run, {"reward": ("reward", BLUE)}, axis("mean reward"))


def response_tokens(run: Run) -> Figure | None:
    """The gap between mean and longest is the tail that speculation works in."""
    series = {
        "response_max": ("longest", ORANGE),
        "response_mean": ("mean", BLUE),
        "response_median": ("median", GRAY),
    }
    return _lines(run, series, axis("response length (tokens)", rangemode="tozero"))


def acceptance_rate(run: Run) -> Figure | None:
    scale = axis("accepted / drafted", range=[0, 1.02], tickformat=".0%")
    return _lines(run, {"acceptance_rate": ("acceptance rate", GREEN)}, scale)


def acceptance_length(run: Run) -> Figure | None:
    scale = axis("τ (tokens per verification)", rangemode="tozero")
    return _lines(run, {"acceptance_length": ("acceptance length τ", GREEN)}, scale)


def speculating_fraction(run: Run) -> Figure | None:
    scale = axis("speculating fraction", range=[0, 1.02], tickformat=".0%")
    return _lines(run, {"speculating_fraction": ("speculating fraction", ORANGE)}, scale)


def requantize_seconds(run: Run) -> Figure | None:
    scale = axis("re-quantize time (seconds)", rangemode="tozero")
    return _lines(run, {"requantize_seconds": ("re-quantize time", PURPLE)}, scale)


def seconds(run: Run) -> Figure | None:
    """Rollout, training and refit, stacked: their sum is the step."""
    parts = (
        ("rollout_seconds", "rollout", BLUE),
        ("train_seconds", "train", GREEN),
        ("refit_seconds", "refit", PURPLE),
    )
    return _stack(run, parts)


def seconds_spent(run: Run) -> Figure | None:
    """What rollouts and re-quantizing were spent on, stacked; None where only the latter is known."""
    if not any(_known(run.series[key]) for key, *_ in PARTS[:-1]):
        return None
    return _stack(run, [part for part in PARTS if any(run.series[part[0]])], HEIGHT + 110)


def _stack(run: Run, parts: Sequence[tuple[str, str, str]], height: int = HEIGHT + 30) -> Figure | None:
    """Series on each other: bars, or areas where there are many steps."""
    if not any(_known(run.series[key]) for key, *_ in parts):
        return None
    kept = keep_extremes(run.numbers, [run.series[key] for key, *_ in parts], BUCKETS)
    data = []
    for key, name, color in parts:
        trace: Figure = {
            "name": name,
            "x": [run.numbers[i] for i in kept],
            "y": rounded([run.series[key][i] for i in kept]),
            "hovertemplate": "%{y:.3~g} s",
        }
        if len(run.numbers) <= MANY_STEPS:
            trace |= {"type": "bar", "marker": {"color": color}}
        else:
            trace |= {"type": "scatter", "mode": "lines", "stackgroup": "seconds"}
            trace |= {"line": {"width": 0.5, "color": color}, "fillcolor": f"{color}cc"}
        data.append(trace)
    scale = axis("time (seconds)", rangemode="tozero")
    bars = {"barmode": "stack", "bargap": 0.35}
    return figure(data, height, xaxis=step_axis(run.numbers), yaxis=scale, **bars)


def ratio(found: Ratio) -> Figure:
    """The range over all pairs as a bar, the median as a dot, and 1 as the line to beat."""
    low, high = min(0.9, found.min), max(1.1, found.max)
    room = 0.08 * (high - low)
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "range",
            "x": rounded([found.min, found.max]),
            "y": [0, 0],
            "line": {"color": ORANGE, "width": 4},
            "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": ORANGE}},
            "hovertemplate": "%{x:.3f}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "median",
            "x": rounded([found.median]),
            "y": [0],
            "marker": {"size": 15, "color": ORANGE},
            "hovertemplate": "median %{x:.3f}<extra></extra>",
        },
    ]
    line = {"color": GRAY, "width": 1.5, "dash": "dash"}
    return figure(
        data,
        150,
        showlegend=False,
        hovermode="closest",
        xaxis=axis("rollout seconds, self-speculative / plain", range=[low - room, high + room], nticks=7),
        yaxis=axis(visible=False, range=[-1, 1], fixedrange=True),
        shapes=[{"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": line}],
    )


def _lines(run: Run, series: dict[str, tuple[str, str]], scale: Figure) -> Figure | None:
    present = {key: look for key, look in series.items() if _known(run.series[key])}
    if not present:
        return None
    kept = keep_extremes(run.numbers, [run.series[key] for key in present], BUCKETS)
    few = len(run.numbers) <= MANY_STEPS
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if few else "lines",
            "name": name,
            "x": [run.numbers[i] for i in kept],
            "y": rounded([run.series[key][i] for i in kept]),
            "line": {"color": color, "width": 2 if few else 1},
            "marker": {"size": 6, "color": color},
            "cliponaxis": False,
        }
        for key, (name, color) in present.items()
    ]
    return figure(data, HEIGHT, xaxis=step_axis(run.numbers), yaxis=scale)


def _known(values: Series) -> bool:
    return any(value is not None for value in values)
