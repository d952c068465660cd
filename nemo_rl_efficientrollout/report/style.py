"""Colours, axes and number formats that all figures share.

Text, grid and background are coloured by page.css, which knows dark mode and paper. Only the
colours of the data are here: mid-tones that keep a contrast of 3:1 on white and on near-black,
and that stay apart for colour-blind readers.
"""

import math
from typing import Any

Figure = dict[str, Any]

BLUE = "#2b7bba"
ORANGE = "#d9700f"
GREEN = "#0f9d7a"
PURPLE = "#9a6fc4"
GRAY = "#7d8794"
RED = "#c23b5e"
PLAIN, SPECULATING = BLUE, ORANGE
TEAL = "#17a2b8"
BROWN = "#8a6d3b"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, BROWN, GRAY)

GRID = "rgba(128, 138, 150, 0.25)"
NO_BREAK = "\u00a0"  # a number and its unit stay on one line
MANY_STEPS = 60  # above this, dots and bars give way to lines and areas


def axis(title: str = "", **options: Any) -> dict[str, Any]:
    """An axis with a quiet grid, its title and unit, and room made by itself."""
    base = {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        "ticks": "",
    }
    return base | options


def step_axis(numbers: list[int]) -> dict[str, Any]:
    """The axis of training steps: whole numbers, with room beside a single one."""
    few = len(numbers) <= 10
    half = 1.5 if len(numbers) < 4 else 0.6 if len(numbers) <= MANY_STEPS else 0
    return axis(
        "training step",
        showgrid=False,
        range=[min(numbers, default=1) - half, max(numbers, default=1) + half],
        **({"tickvals": numbers} if few else {"tickformat": "d", "nticks": 8}),
    )


def figure(data: list[dict[str, Any]], height: int, **layout: Any) -> Figure:
    """A figure as plotly.js takes it."""
    base = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "hoverlabel": {"namelength": -1},
        "showlegend": len([t for t in data if t.get("showlegend", True)]) > 1,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
    }
    return {"data": data, "layout": base | layout}


def color_at(index: int) -> str:
    """The colour of the entry at `index` of a list; they repeat after eight."""
    return COLORS[index % len(COLORS)]


def flat_steps(count: int) -> list[list[Any]]:
    """A colour scale of `count` flat steps, for a map of whole numbers from 0."""
    return [[edge / count, color_at(i)] for i in range(count) for edge in (i, i + 1)]


def short(value: float | None, digits: int = 3) -> str:
    """A number for reading: `1.2 M`, `0.713`; a dash for none."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.{digits}g}{NO_BREAK}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share for reading: `71 %`."""
    return "–" if value is None else f"{100 * value:.0f}{NO_BREAK}%"


def rounded(values: list) -> list:
    """Five significant digits: more than a screen shows, and a third of the bytes."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in values]
