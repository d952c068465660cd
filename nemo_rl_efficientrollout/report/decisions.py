"""Where the gate would draft, and how far: its map over load and context length, with a rollout's path on it."""

import math

import numpy as np

from nemo_rl_efficientrollout.gate.action import actions
from nemo_rl_efficientrollout.gate.described import Described
from nemo_rl_efficientrollout.gate.policy import HANDICAP
from nemo_rl_efficientrollout.report.rollout import Timeline
from nemo_rl_efficientrollout.report.style import Figure, axis, figure, flat_steps, percent, rounded
from nemo_rl_efficientrollout.report.thinning import keep_extremes

BATCHES, CONTEXTS = 24, 16  # cells of the map, at most
COMPARED = 200  # steps of a rollout that are held against the map
LONGEST_CONTEXT = 1e7
MOST_REQUESTS = 1e5
HEIGHT = 400
RULE = (
    "Colours are the draft length with the most expected tokens per second, by the cost model and the acceptance as "
    "they were after this rollout. The line is the rollout; diamonds are changes of draft length. The gate leaves the "
    "map to probe, where a gain is too small to switch for, and because it knew less at the time."
)


def decision_map(timeline: Timeline, buckets: int) -> Figure | None:
    """The figure of one rollout; None where no cost model or no load was recorded."""
    places = [i for i in range(len(timeline.seconds)) if _on_map(timeline.active[i], timeline.context[i])]
    if timeline.gate is None or not places:
        return None
    rule = _Rule(timeline.gate.described)
    batches = _cells([timeline.active[i] for i in places], BATCHES, whole=True)
    contexts = _cells([timeline.context[i] for i in places], CONTEXTS)
    chosen = [[rule.best(int(batch), context) for batch in batches] for context in contexts]
    lengths = rule.lengths
    kept = keep_extremes([timeline.seconds[i] for i in places], [[timeline.active[i] for i in places]], buckets // 3)
    path = [places[i] for i in kept]
    x, y = rounded([timeline.active[i] for i in path]), rounded([timeline.context[i] for i in path])
    changes = [change for change in timeline.gate.changes if _on_map(change.batch, change.context)]
    halo = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "showlegend": False}
    data = [
        {
            "type": "heatmap",
            "name": "γ",
            "x": _edges(batches),
            "y": _edges(contexts),
            "z": [[lengths.index(length) for length in row] for row in chosen],
            "customdata": chosen,
            "hovertemplate": "γ = %{customdata}<extra></extra>",
            "zmin": -0.5,
            "zmax": len(lengths) - 0.5,
            "colorscale": flat_steps(len(lengths)),
            "opacity": 0.75,
            "colorbar": {
                "tickvals": [*range(len(lengths))],
                "ticktext": [f"γ {length}" for length in lengths],
                "thickness": 14,
                "outlinewidth": 0,
            },
        },
        halo | {"name": "path, rim", "line": {"color": "#ffffff", "width": 4.5}},
        halo
        | {
            "name": "the rollout's path",
            "line": {"color": "#111418", "width": 1.8},
            "hoverinfo": None,
            "customdata": [[timeline.asked[i], round(timeline.seconds[i], 3)] for i in path],
            "hovertemplate": "%{x} requests of %{y:.0f} tokens after %{customdata[1]} s: "
            "γ = %{customdata[0]}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "changes of γ",
            "x": rounded([change.batch for change in changes]),
            "y": rounded([change.context for change in changes]),
            "marker": {"symbol": "diamond", "size": 9, "color": "#ffffff", "line": {"color": "#111418", "width": 1.5}},
            "customdata": [[change.draft_length, change.why] for change in changes],
            "hovertemplate": "γ = %{customdata[0]}: %{customdata[1]}<extra></extra>",
            "showlegend": False,
        },
    ]
    return figure(
        data,
        HEIGHT,
        hovermode="closest",
        xaxis=_log_axis("active requests (B)", batches, [2.0**i for i in range(18)]),
        yaxis=_log_axis("context (tokens)", contexts, [m * 10.0**i for i in range(8) for m in (1, 2, 5)]),
    )


def caption(timeline: Timeline) -> str:
    """What the map shows, and how much of the rollout went by it; for a rollout that has one."""
    gate = timeline.gate
    places = [i for i in range(len(timeline.seconds)) if _on_map(timeline.active[i], timeline.context[i])]
    if gate is None or not places:
        return ""
    rule, kept = _Rule(gate.described), places[:: math.ceil(len(places) / COMPARED)]
    same = [rule.best(int(timeline.active[i]), timeline.context[i]) == timeline.asked[i] for i in kept]
    seed = f" The gate started from {gate.seed}." if gate.seed else ""
    return f"{percent(sum(same) / len(same))} of the steps went by this map. {RULE}{seed}"


class _Rule:
    """γ with the most expected tokens per second; drafting must promise a little more than plain decoding."""

    def __init__(self, described: Described) -> None:
        self.lengths = described.draft_lengths
        self._described, self._model = described, described.cost_model()
        self._actions = actions(described.draft_lengths, described.drafters[:1])

    def best(self, batch: int, context: float) -> int:
        seconds = self._model.cycles(batch, context, self._actions)
        tokens = self._described.lengths(context)
        merits = np.divide(tokens, seconds, out=np.zeros(len(seconds)), where=seconds > 0)
        merits[1:] /= 1.0 + HANDICAP
        return self.lengths[int(np.argmax(merits))]


def _on_map(batch: float, context: float) -> bool:
    return 1 <= batch <= MOST_REQUESTS and 1 <= context <= LONGEST_CONTEXT


def _cells(values: list[float], count: int, whole: bool = False) -> list[float]:
    """Places from the least to the largest value, in equal ratios; whole numbers only once each."""
    low, high = min(values), max(values)
    places = np.geomspace(low, max(high, 1.2 * low), count)
    if whole:
        places = np.unique(np.concatenate([places.round(), [high]]))
    return places.tolist()


def _edges(places: list[float]) -> list[float]:
    """The borders of cells around `places`, in between on a logarithmic axis."""
    logs = np.log(places)
    middles = (logs[1:] + logs[:-1]) / 2 if len(logs) > 1 else np.array([])
    first = logs[0] - (middles[0] - logs[0] if len(middles) else 0.3)
    last = logs[-1] + (logs[-1] - middles[-1] if len(middles) else 0.3)
    return rounded(np.exp([first, *middles, last]).tolist())


def _log_axis(title: str, places: list[float], ticks: list[float]) -> Figure:
    edges = _edges(places)
    shown = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    limits = [math.log10(edges[0]), math.log10(edges[-1])]
    named = {"tickvals": shown, "ticktext": [f"{tick:g}" for tick in shown]} if len(shown) > 1 else {}
    return axis(title, type="log", range=rounded(limits), showgrid=False, **named)
