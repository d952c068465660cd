"""A cost model to look at: one HTML page that needs nothing beside itself, and the same figures as PNG."""

import importlib
from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import write_whole
from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.timing import Timing
from nemo_rl_efficientrollout.report.gate_views import Line, Views, views
from nemo_rl_efficientrollout.report.page import card, page
from nemo_rl_efficientrollout.report.style import COLORS, GRAY, Figure, axis, color_at, figure, flat_steps, rounded

TITLES = {
    "fit": "Measured against predicted time",
    "times": "Time of a step over requests",
    "decisions": "Draft length chosen",
    "break_even": "Acceptance from which speculation pays",
}
_DPI = 144


def write_plots(model: CostModel, timings: Sequence[Timing], folder: Path, name: str = "") -> list[Path]:
    """Write gate.html and a PNG per figure; returns their paths.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written.
    """
    shown = views(model, timings)
    content = _pngs(shown) | {"gate.html": _page(shown, name).encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in content.items():
            write_whole(folder / file, data)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; give a folder that can be written") from None
    return [folder / file for file in content]


# HTML


def render(model: CostModel, timings: Sequence[Timing] = (), name: str = "") -> str:
    """The page alone, which needs no matplotlib."""
    return _page(views(model, timings), name)


def _page(shown: Views, name: str) -> str:
    drawn = {"times": _times(shown), "decisions": _decisions(shown), "break_even": _break_even(shown)}
    if shown.fit:
        drawn = {"fit": _fit(shown)} | drawn
    cards = "".join(card(key, _title(key, shown), plot) for key, plot in drawn.items())
    title = f"{name or 'Cost model'}: when to speculate"
    body = f"""<header><h1>{escape(title)}</h1></header>
<main><div class="cards">{cards}</div></main>
<noscript><p>The figures need JavaScript; it is inside this file.</p></noscript>"""
    return page(title, body, {"figures": drawn})


def _title(key: str, shown: Views) -> str:
    return TITLES[key] + (f", context of {shown.context:g} tokens" if key in ("times", "break_even") else "")


def _trace(line: Line, color: str, mode: str = "lines", **options: Any) -> Figure:
    base = {"type": "scatter", "mode": mode, "name": line.name, "x": rounded(list(line.x)), "y": rounded(list(line.y))}
    return base | {"line": {"color": color}, "marker": {"color": color, "size": 5}} | options


def _fit(shown: Views) -> Figure:
    low, high = _range(shown.fit)
    ideal = Line("equal", (low, high), (low, high))
    data = [_trace(line, color, "markers") for line, color in zip(shown.fit, COLORS, strict=False)]
    data.append(_trace(ideal, GRAY, showlegend=False, hoverinfo="skip"))
    return figure(
        data, 420, xaxis=axis("measured ms", type="log"), yaxis=axis("predicted ms", type="log"), hovermode="closest"
    )


def _times(shown: Views) -> Figure:
    colors = _by_name(shown.times)
    data = [_trace(line, colors[line.name]) for line in shown.times]
    seen = [line for line in shown.seen if line.name in colors]
    data += [_trace(line, colors[line.name], "markers", showlegend=False) for line in seen]
    return figure(data, 420, xaxis=axis("requests (B)", type="log"), yaxis=axis("ms", type="log"))


def _decisions(shown: Views) -> Figure:
    """One map below the other: side by side they would be too narrow for a phone."""
    count = len(shown.decisions)
    layout: dict[str, Any] = {}
    data = []
    for i, (alpha, chosen) in enumerate(shown.decisions.items()):
        suffix = str(i + 1) if i else ""
        index = [[shown.lengths.index(int(length)) for length in row] for row in chosen]
        data.append(
            {
                "type": "heatmap",
                "name": f"α = {alpha:g}",
                "x": [str(batch) for batch in shown.batches],
                "y": [f"{context:g}" for context in shown.contexts],
                "z": index,
                "customdata": chosen.tolist(),
                "hovertemplate": "B %{x}, S %{y}: γ = %{customdata}<extra></extra>",
                "zmin": -0.5,
                "zmax": len(shown.lengths) - 0.5,
                "colorscale": flat_steps(len(shown.lengths)),
                "showscale": i == count - 1,
                "colorbar": {
                    "tickvals": [*range(len(shown.lengths))],
                    "ticktext": [f"γ {x}" for x in shown.lengths],
                    "thickness": 14,
                    "outlinewidth": 0,
                },
                "xaxis": "x",
                "yaxis": f"y{suffix}",
            }
        )
        domain = [1 - (i + 0.92) / count, 1 - i / count]
        layout[f"yaxis{suffix}"] = axis(f"α = {alpha:g}, context", domain=domain, type="category")
    layout["xaxis"] = axis("requests (B)", type="category", anchor=f"y{count}" if count > 1 else "y")
    return figure(data, 80 + 130 * count, hovermode="closest", **layout)


def _break_even(shown: Views) -> Figure:
    data = [
        _trace(line, color_at(i)) for i, line in enumerate(shown.break_even, start=1)
    ]  # colours as in the decisions
    return figure(
        data, 420, xaxis=axis("requests (B)", type="log"), yaxis=axis("least acceptance rate α", range=[0, 1.02])
    )


def _by_name(lines: Sequence[Line]) -> dict[str, str]:
    return {line.name: color_at(i) for i, line in enumerate(lines)}


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [value for line in lines for value in (*line.x, *line.y) if value is not None]
    return min(values), max(values)


# PNG


def _pngs(shown: Views) -> dict[str, bytes]:
    try:
        drawing = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise UserError(
            "plots need matplotlib, which is not installed: pip install 'nemo-rl-efficientrollout[plot]'"
        ) from None
    draw: dict[str, Callable[[Any], None]] = {
        "times": lambda plot: _draw_times(plot.subplots(), shown),
        "decisions": lambda plot: _draw_decisions(plot, shown),
        "break_even": lambda plot: _draw_break_even(plot.subplots(), shown),
    }
    if shown.fit:
        draw = {"fit": lambda plot: _draw_fit(plot.subplots(), shown)} | draw
    images = {}
    for key, into in draw.items():
        # Not pyplot: no global state, no display.
        plot = drawing.Figure(figsize=(11 if key == "decisions" else 7, 4.5), layout="constrained")
        into(plot)
        plot.suptitle(_title(key, shown))
        buffer = BytesIO()
        plot.savefig(buffer, format="png", dpi=_DPI)
        images[f"{key}.png"] = buffer.getvalue()
    return images


def _draw_fit(axes: Any, shown: Views) -> None:
    low, high = _range(shown.fit)
    axes.plot((low, high), (low, high), color=GRAY, linewidth=1)
    for line, color in zip(shown.fit, COLORS, strict=False):
        axes.scatter(line.x, line.y, s=9, color=color, label=line.name)
    axes.set(xscale="log", yscale="log", xlabel="measured ms", ylabel="predicted ms")
    axes.legend()


def _draw_times(axes: Any, shown: Views) -> None:
    colors = _by_name(shown.times)
    for line in shown.times:
        axes.plot(line.x, line.y, color=colors[line.name], label=line.name)
    for line in shown.seen:
        if line.name in colors:
            axes.scatter(line.x, line.y, s=14, color=colors[line.name])
    axes.set(xscale="log", yscale="log", xlabel="requests (B)", ylabel="ms")
    _batch_ticks(axes, shown)
    axes.legend()


def _draw_decisions(plot: Any, shown: Views) -> None:
    colors = importlib.import_module("matplotlib.colors").ListedColormap(
        [color_at(i) for i in range(len(shown.lengths))]
    )
    grid = plot.subplots(1, len(shown.decisions), sharey=True, squeeze=False)[0]
    image = None
    for axes, (alpha, chosen) in zip(grid, shown.decisions.items(), strict=True):
        index = [[shown.lengths.index(int(length)) for length in row] for row in chosen]
        image = axes.imshow(index, cmap=colors, vmin=-0.5, vmax=len(shown.lengths) - 0.5, aspect="auto", origin="lower")
        axes.set_xticks(range(len(shown.batches)), [str(batch) for batch in shown.batches], rotation=90, fontsize=7)
        axes.set(title=f"α = {alpha:g}", xlabel="requests (B)")
    grid[0].set_yticks(range(len(shown.contexts)), [f"{context:g}" for context in shown.contexts])
    grid[0].set_ylabel("context (tokens)")
    bar = plot.colorbar(image, ax=grid, ticks=range(len(shown.lengths)))
    bar.ax.set_yticklabels([f"γ {length}" for length in shown.lengths])


def _draw_break_even(axes: Any, shown: Views) -> None:
    for i, line in enumerate(shown.break_even, start=1):
        y = [float("nan") if value is None else value for value in line.y]
        axes.plot(line.x, y, color=color_at(i), label=line.name)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="requests (B)", ylabel="least acceptance rate α")
    _batch_ticks(axes, shown)
    axes.legend()


def _batch_ticks(axes: Any, shown: Views) -> None:
    axes.set_xticks(shown.batches, [str(batch) for batch in shown.batches], fontsize=7)
    axes.minorticks_off()
