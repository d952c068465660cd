"""What a figure shows, in words: read out where it cannot be seen."""

from collections.abc import Sequence
from typing import Any

from nemo_rl_efficientrollout.report.style import Figure, short

MOST_TRACES = 12
MOST_PLACES = 16


def alternative(figure: Figure) -> str:
    """A sentence for each line, bar or map of a figure, from the very numbers that are drawn."""
    told = [text for trace in figure["data"] if trace.get("hoverinfo") != "skip" and (text := _trace(trace, figure))]
    more = f" And {len(told) - MOST_TRACES} more." if len(told) > MOST_TRACES else ""
    return " ".join(told[:MOST_TRACES]) + more


def _trace(trace: dict[str, Any], figure: Figure) -> str:
    if trace["type"] == "heatmap":
        return f"A map of {_axis(trace, figure, 'yaxis')} over {_axis(trace, figure, 'xaxis')}."
    name = trace.get("name", "values")
    x, y = list(trace.get("x") or []), list(trace.get("y") or [])
    if any(isinstance(place, str) for place in y):  # one value for each name
        return f"{name}: {_listed(y, x)}."
    if any(isinstance(place, str) for place in x):
        return f"{name}: {_listed(x, y)}."
    known = [value for value in y if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        return f"{name}: {short(known[0])}."
    if trace.get("mode") == "markers":
        return f"{name}: {len(known)} points from {short(min(known))} to {short(max(known))}."
    first, last = short(known[0]), short(known[-1])
    return f"{name}: {first} first, {last} last, from {short(min(known))} to {short(max(known))}."


def _listed(names: Sequence[object], values: Sequence[float | None]) -> str:
    pairs = [f"{name} {short(value)}" for name, value in zip(names, values, strict=True)]
    more = f", and {len(pairs) - MOST_PLACES} more" if len(pairs) > MOST_PLACES else ""
    return ", ".join(pairs[:MOST_PLACES]) + more


def _axis(trace: dict[str, Any], figure: Figure, name: str) -> str:
    own = trace.get(name, name[0])  # `x2` is described by `xaxis2`
    return figure["layout"][f"{name[0]}axis{own[1:]}"]["title"]["text"] or "values"
