"""One rollout over time: the batch drains, and speculation fills the tail.

Four rows on one time axis: active requests (coloured by whether the engine speculated), draft
length γ, acceptance, and tokens per second.
"""

from itertools import pairwise

from nemo_rl_efficientrollout.report.rollout import Timeline
from nemo_rl_efficientrollout.report.style import (
    GREEN,
    PLAIN,
    PURPLE,
    SPECULATING,
    Figure,
    axis,
    figure,
    percent,
    rounded,
    short,
)
from nemo_rl_efficientrollout.report.thinning import keep_extremes, windowed_rate

RATE_WINDOWS = 60
STEPS_OF_A_RATE = 4  # on average; a rate over one step or two only dances


def sentence(timeline: Timeline) -> str:
    """What this rollout shows, from every engine step of it."""
    speculated = [length > 0 for length in timeline.draft_length]
    peak = max(timeline.active)
    if not any(speculated):
        return f"No speculation in this rollout; at most {peak:.0f} requests were active."
    durations = _durations(timeline)
    during = sum(d for d, on in zip(durations, speculated, strict=True) if on)
    share = during / (sum(durations) or 1.0)
    busiest = max(a for a, on in zip(timeline.active, speculated, strict=True) if on)
    drafted, accepted = sum(timeline.drafted), sum(timeline.accepted)
    text = (
        f"Speculation ran for {percent(share)} of this rollout's decoding time, "
        f"with at most {busiest:.0f} of {peak:.0f} requests active."
    )
    if drafted > 0:
        text += f" {short(drafted)} tokens were drafted and {percent(accepted / drafted)} accepted."
    return text


def draw(timeline: Timeline, buckets: int) -> Figure:
    """The figure of one rollout, thinned to about `buckets` places on the time axis."""
    kept = keep_extremes(timeline.seconds, (timeline.active, timeline.draft_length), buckets)
    # A step's line runs from its start to that of the next; the last one's to its end.
    starts = [timeline.seconds[i] - timeline.step_seconds[i] for i in kept]
    seconds = rounded([*starts, timeline.seconds[-1]])
    active = [timeline.active[i] for i in (*kept, kept[-1])]
    lengths = [timeline.draft_length[i] for i in (*kept, kept[-1])]
    # Two areas that take turns at 0, not one line in two colours: plotly fills a trace, not a part.
    plain = [a if g == 0 else 0 for a, g in zip(active, lengths, strict=True)]
    speculating = [a if g > 0 else 0 for a, g in zip(active, lengths, strict=True)]
    windows = max(min(RATE_WINDOWS, len(timeline.seconds) // STEPS_OF_A_RATE), 1)
    centers, rates = windowed_rate(timeline.seconds, timeline.accepted, timeline.drafted, windows)
    # A step gives each request the token that the target samples, and the drafts that it accepts before.
    tokens = [a + b for a, b in zip(timeline.active, timeline.accepted, strict=True)]
    _, speeds = windowed_rate(timeline.seconds, tokens, _durations(timeline), windows)
    step = {"type": "scatter", "mode": "lines", "x": seconds}
    data = [
        step | _area("plain decoding", plain, PLAIN),
        step | _area("speculating", speculating, SPECULATING),
        step
        | {
            "name": "active requests",
            "y": active,
            "line": {"color": "#808a96", "width": 1, "shape": "hv"},
            "showlegend": False,
        },
        step
        | {
            "name": "draft length γ",
            "y": lengths,
            "yaxis": "y2",
            "line": {"color": SPECULATING, "width": 1.5, "shape": "hv"},
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "acceptance rate",
            "x": rounded(centers),
            "y": rounded(rates),
            "yaxis": "y3",
            "line": {"color": GREEN, "width": 1.5},
            "marker": {"size": 4, "color": GREEN},
            "showlegend": False,
            "hovertemplate": "%{y:.0%}",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "tokens per second",
            "x": rounded(centers),
            "y": rounded(speeds),
            "yaxis": "y4",
            "connectgaps": True,  # while one long step ran, nothing arrived
            "line": {"color": PURPLE, "width": 1.5},
            "marker": {"size": 3, "color": PURPLE},
            "showlegend": False,
        },
    ]
    top = max(timeline.draft_length)
    return figure(
        data,
        640,
        showlegend=True,
        xaxis=axis(
            "seconds since the rollout began", anchor="y4", showgrid=False, hoverformat=".2f", rangemode="tozero"
        ),
        yaxis=axis("active requests", domain=[0.62, 1], rangemode="tozero", nticks=6),
        yaxis2=axis("γ", domain=[0.44, 0.56], range=[-0.05 * top, 1.15 * top or 1], nticks=4),
        yaxis3=axis("acceptance", domain=[0.24, 0.37], range=[0, 1.05], tickformat=".0%", nticks=3),
        yaxis4=axis("tokens / s", domain=[0, 0.17], rangemode="tozero", nticks=4),
    )


def _area(name: str, values: list[float], color: str) -> Figure:
    return {
        "name": name,
        "y": values,
        "line": {"width": 0, "shape": "hv", "color": color},
        "fill": "tozeroy",
        "fillcolor": f"{color}8c",  # eight digits: the last two are the opacity
        "hoverinfo": "skip",
    }


def _durations(timeline: Timeline) -> list[float]:
    """Seconds of each engine step; from the gaps between them where they were not recorded."""
    if any(timeline.step_seconds):
        return timeline.step_seconds
    times = timeline.seconds
    return [*(b - a for a, b in pairwise(times)), 0.0]
