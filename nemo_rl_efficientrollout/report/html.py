"""Put a run's report into one HTML file that needs nothing beside itself.

plotly.js, style and data are inside the file, and its content policy forbids any request, so it
reads the same offline. Strings of the run reach the page only through `escape`; figures travel as
JSON that cannot close its own script tag.
"""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import write_whole
from nemo_rl_efficientrollout.report import steps, words
from nemo_rl_efficientrollout.report.page import page
from nemo_rl_efficientrollout.report.reading import Run, read
from nemo_rl_efficientrollout.report.style import Figure
from nemo_rl_efficientrollout.report.timeline import Drawn, draw_all

THINNED = (
    "Long rollouts are thinned for the screen: in each of up to 300 equal spans of time the first "
    "point and the lowest and highest of each line are drawn. Acceptance is accepted / drafted "
    "over all tokens of a sixtieth of the rollout. The sentence above counts every engine step. "
    f"Figures by step are thinned the same way above {steps.BUCKETS} steps."
)


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write `report` (a run's report.json) as HTML to `path`, whole or not at all."""
    text = render(read(report))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate, legal in JSON, must not cost the whole report.
        write_whole(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"cannot write the report to {path}: {error.strerror or error}") from error


def render(run: Run) -> str:
    """The whole page."""
    figures: dict[str, Figure] = {}
    rollouts = draw_all(run.timelines)
    body = "\n".join(_body(run, rollouts, figures))
    data = {
        "figures": figures,
        "rollouts": [{"sentence": r.sentence, **r.figure} for r in rollouts],
    }
    return page(run.name, body, data)


def _body(run: Run, rollouts: list[Drawn], figures: dict[str, Figure]) -> Iterator[str]:
    """The page from top to bottom; figures met on the way are put into `figures`."""

    def card(name: str, title: str, figure: Figure | None) -> str:
        if figure is None:
            return f'<figure><h3>{title}</h3><p class="none">No values in this run.</p></figure>'
        figures[name] = figure
        height = figure["layout"]["height"]
        return f'<figure><h3>{title}</h3><div class="plot" id="{name}" style="height:{height}px"></div></figure>'

    yield from _header(run)
    yield "<main>"
    yield from _timeline(rollouts)
    if run.ratio:
        yield "<section><h2>Compared with plain rollouts</h2>"
        yield f"<p>{words.comparison(run.ratio)}</p>"
        yield card("ratio", "Rollout ratio", steps.ratio(run.ratio)) + "</section>"
    yield '<section><h2>Learning and time</h2><div class="cards">'
    yield card("reward", "Reward by step", steps.reward(run))
    yield card("response", "Response length by step", steps.response_tokens(run))
    yield card("seconds", "Seconds by step", steps.seconds(run))
    yield '</div></section><section><h2>Speculation by step</h2><div class="cards">'
    yield card("acceptance-rate", "Acceptance rate", steps.acceptance_rate(run))
    yield card("acceptance-length", "Acceptance length", steps.acceptance_length(run))
    yield card("speculating", "Speculating fraction", steps.speculating_fraction(run))
    yield card("requantize", "Re-quantize time", steps.requantize_seconds(run))
    yield "</div></section></main>"
    yield "<noscript><p>The figures need JavaScript; it is inside this file.</p></noscript>"


def _header(run: Run) -> Iterator[str]:
    yield f'<header><h1>{escape(run.name)}</h1><p class="lead">{words.progress(run)}</p>'
    fresh = words.freshness(run)
    if fresh:
        kind = "good" if fresh[0] else "bad"
        yield f'<p class="notice {kind}">{fresh[1]}</p>'
    yield '<ul class="tiles">'
    for label, value, note in words.tiles(run):
        yield f"<li><span>{label}</span><strong>{value}</strong><small>{note}</small></li>"
    yield '</ul><div class="facts">'
    parts = {"Model": _grouped(run.model), "Machine": run.machine, "Settings": run.settings}
    for title, values in parts.items():
        yield f"<details open><summary>{title}</summary>{_facts(values)}</details>"
    yield "</div></header>"


def _timeline(rollouts: list[Drawn]) -> Iterator[str]:
    yield "<section><h2>Inside a rollout</h2>"
    if not rollouts:
        yield '<p class="none">No timeline in this run.</p></section>'
        return
    last = len(rollouts) - 1
    options = "".join(
        f'<option value="{i}"{" selected" if i == last else ""}>{rollout.step}</option>'
        for i, rollout in enumerate(rollouts)
    )
    yield f'<label class="pick">Training step <select id="rollout">{options}</select></label>'
    yield f'<p id="sentence" aria-live="polite">{escape(rollouts[last].sentence)}</p>'
    height = rollouts[last].figure["layout"]["height"]
    yield f'<figure><div class="plot" id="timeline" style="height:{height}px"></div>'
    yield f"<figcaption>{THINNED}</figcaption></figure></section>"


def _facts(values: Mapping[str, Any]) -> str:
    rows = [f"<dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd>" for k, v in _flat(values)]
    return f"<dl>{''.join(rows)}</dl>" if rows else '<p class="none">Not recorded.</p>'


def _grouped(model: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter count in groups of digits; a setting keeps the digits it was typed with."""
    count = model.get("parameters")
    return {**model, "parameters": f"{count:,}"} if isinstance(count, int) else dict(model)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `gate.policy`, in the words of the command line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return str(value)
