"""The cost model against what steps really took, for one rollout and over training steps."""

import math
from statistics import median

from nemo_rl_efficientrollout.report.reading import Run
from nemo_rl_efficientrollout.report.rollout import Timeline
from nemo_rl_efficientrollout.report.style import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    Figure,
    axis,
    figure,
    percent,
    rounded,
    step_axis,
)
from nemo_rl_efficientrollout.report.thinning import keep_extremes

POINTS = 300  # of a kind, evenly chosen
HEIGHT = 400
RULE = (
    "Each dot is an engine step of this rollout; on the line the prediction is right. Predicted by the cost model as "
    "it was before the rollout, so that none of these steps had taught it. Steps with prefills are left out."
)
OVER_STEPS = (
    "Predicted over measured time of the decode steps of each rollout: the median, and the middle 80 % as a band. The "
    "cost model is the one from before the rollout."
)
KINDS = (("plain decoding", BLUE), ("speculating", ORANGE), ("first draft or last verification", GREEN))


def against_measured(timeline: Timeline, buckets: int = POINTS) -> Figure | None:
    """Predicted over measured milliseconds of one rollout's steps, about `buckets` of a kind; None where nothing was
    predicted."""
    points = [(kind, 1e3 * took, 1e3 * expected) for kind, took, expected in _pairs(timeline)]
    if not points:
        return None
    data = []
    for index, (name, color) in enumerate(KINDS):
        mine = [(took, expected) for kind, took, expected in points if kind == index]
        mine = mine[:: math.ceil(len(mine) / buckets) or 1]
        if mine:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": rounded([took for took, _ in mine]),
                    "y": rounded([expected for _, expected in mine]),
                    "marker": {"color": color, "size": 5, "opacity": 0.6},
                    "hovertemplate": "measured %{x:.3g} ms, predicted %{y:.3g} ms",
                }
            )
    values = [value for _, *both in points for value in both]
    ends = rounded([min(values), max(values)])
    line = {"type": "scatter", "mode": "lines", "name": "equal", "x": ends, "y": ends, "hoverinfo": "skip"}
    data.append(line | {"line": {"color": GRAY, "width": 1.5, "dash": "dash"}, "showlegend": False})
    scale = {"type": "log", "nticks": 5, "minor": {"showgrid": False}, "tickformat": ".3~g", "dtick": "D2"}
    return figure(
        data,
        HEIGHT,
        hovermode="closest",
        xaxis=axis("measured (ms)", **scale),
        yaxis=axis("predicted (ms)", **scale),
    )


def caption(timeline: Timeline) -> str:
    """How far the predictions of one rollout were off, in words; empty where nothing was predicted."""
    errors = [abs(expected / took - 1.0) for _, took, expected in _pairs(timeline)]
    if not errors:
        return ""
    return f"Half of the {len(errors):,} predicted step times are off by less than {percent(median(errors))}. {RULE}"


def ratio_over_steps(run: Run) -> Figure | None:
    """Predicted over measured time of decode steps, one value per training step."""
    middle = run.series["predicted_median"]
    if not any(value is not None for value in middle):
        return None
    names = ("predicted_p10", "predicted_p90", "predicted_median")
    kept = [i for i in keep_extremes(run.numbers, [run.series[name] for name in names], 400) if middle[i] is not None]
    low, high, center = (rounded([run.series[name][i] for i in kept]) for name in names)
    base = {"type": "scatter", "x": [run.numbers[i] for i in kept]}
    edge = base | {"mode": "lines", "line": {"width": 0, "color": BLUE}, "hoverinfo": "skip", "showlegend": False}
    data = [
        edge | {"name": "tenth percentile", "y": low},
        edge | {"name": "ninetieth percentile", "y": high, "fill": "tonexty", "fillcolor": f"{BLUE}38"},
        base
        | {
            "mode": "lines+markers",
            "name": "predicted / measured",
            "y": center,
            "line": {"color": BLUE, "width": 2},
            "marker": {"size": 5},
        },
    ]
    equal = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 1, "y1": 1}
    return figure(
        data,
        270,
        xaxis=step_axis(run.numbers),
        yaxis=axis("predicted / measured"),
        shapes=[equal | {"line": {"color": GRAY, "width": 1.5, "dash": "dash"}}],
    )


def _pairs(timeline: Timeline) -> list[tuple[int, float, float]]:
    """Kind, measured and predicted seconds of every decode step that was predicted."""
    rows = zip(
        timeline.draft_length,
        timeline.asked,
        timeline.decode_only,
        timeline.step_seconds,
        timeline.expected_seconds,
        strict=True,
    )
    return [
        (1 if verified and asked else 2 if verified or asked else 0, took, expected)
        for verified, asked, decoding, took, expected in rows
        if decoding and took > 0 and expected > 0
    ]
