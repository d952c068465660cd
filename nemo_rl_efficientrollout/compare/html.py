"""A comparison as one HTML page that needs nothing beside itself: of two runs, or of several reports."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..report.html import NO_SCRIPT, Shown, write_page
from ..report.page import card, facts, page
from ..report.panels import SHOWN
from ..report.reading import Run as Report
from ..report.style import Figure
from .comparison import Comparison
from .figures import draw
from .metrics import GENERATION, MISMATCH, PER_TOKEN, REWARD, STEP_TIME
from .words import LEVEL, caveats, center, conclusions, estimate, span, verdict

TILES = (GENERATION, PER_TOKEN, STEP_TIME, REWARD, MISMATCH)
BANDS = (
    "Dots are steps; lines are running medians and bands hold the middle 80 % of a tenth of the run, at least five "
    "steps, around each."
)


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the page of two runs to `path`, whole or not at all. Raises UserError: the file cannot be written."""
    write_page(render(found), path)


def render(found: Comparison) -> str:
    """The page of two runs. Strings of the runs reach it only through `escape`, figures only as JSON."""
    drawn = list(draw([found]))
    title = f"{found.a.name} | {found.b.name}"
    body = f"""<header><h1>{escape(title)}</h1>
<p class="lead">Two training runs side by side. A is the baseline.</p>{"".join(_summary(found))}
<div class="facts">{_run("A", found)}{_run("B", found)}{_settings(found)}</div></header>
<main>{"".join(_figures(found, drawn))}
<section><h2>All metrics</h2><div class="facts">{"".join(_metrics(found))}</div></section>
<section><h2>How to read this</h2>{"".join(_caveats(found))}</section></main>{NO_SCRIPT}"""
    return page(title, body, {"figures": {name: figure for name, _, figure in drawn}})


def render_reports(found: Sequence[Comparison], reports: Sequence[Report]) -> str:
    """The page of several runs: each against the first, then the report of each.

    Args:
        found: of the second, third… run with the first, labelled B, C…
        reports: of all runs, in their order.
    """
    drawn = list(draw(found))
    labels = ["A", *(one.label for one in found)]
    shown = [Shown(run, f"{label}-", max(SHOWN // len(reports), 1)) for label, run in zip(labels, reports, strict=True)]
    title = " | ".join(run.name for run in reports)
    body = "\n".join(_of_reports(found, drawn, dict(zip(labels, shown, strict=True)), title))
    figures = {name: figure for name, _, figure in drawn}
    pickers = {}
    for one in shown:
        figures |= one.figures
        pickers |= one.pickers
    return page(title, body, {"figures": figures, "pickers": pickers})


def _of_reports(
    found: Sequence[Comparison], drawn: list[tuple[str, str, Figure]], shown: dict[str, Shown], title: str
) -> Iterator[str]:
    yield f'<header><h1>{escape(title)}</h1><p class="lead">{len(shown)} runs. A is the base of every comparison.</p>'
    links = (f'<li><a href="#run-{label}">{label}: {escape(one.run.name)}</a></li>' for label, one in shown.items())
    yield f'<nav><ul class="runs">{"".join(links)}</ul></nav></header><main>'
    for one in found:
        yield f"<section><h2>{one.label} against A: {escape(one.b.name)} against {escape(one.a.name)}</h2>"
        yield from _summary(one)
        yield f'<div class="facts">{_settings(one)}</div></section>'
    yield from _figures(found[0], drawn)
    for label, one in shown.items():
        yield f'<article id="run-{label}"><h2 class="run">{label}: {escape(one.run.name)}</h2>'
        yield one.header() + one.main() + "</article>"
    yield "<section><h2>How the runs were compared</h2>"
    for one in found:
        yield f"<h3>{one.label} against A</h3>"
        yield from _caveats(one)
    yield f"</section></main>{NO_SCRIPT}"


def _summary(found: Comparison) -> Iterator[str]:
    """What to take away: tiles, then sentences."""
    yield '<ul class="tiles">'
    for name in TILES:
        if compared := found.metrics.get(name):
            note = f"{LEVEL}: {span(compared)}" if compared.interval else verdict(compared, found.label)
            title = escape(compared.metric.title)
            yield f"<li><span>{title}</span><strong>{estimate(compared)}</strong><small>{note}</small></li>"
    yield "</ul>"
    for sentence in conclusions(found):
        yield f"<p>{escape(sentence)}</p>"


def _figures(found: Comparison, drawn: list[tuple[str, str, Figure]]) -> Iterator[str]:
    warm_up = " The gray part is left out as warm-up." if found.skipped else ""
    yield f'<section><h2>Figures</h2><p class="none">{BANDS}{warm_up}</p><div class="cards">'
    for name, title, figure in drawn:
        yield card(name, title, figure)
    yield "</div></section>"


def _metrics(found: Comparison) -> Iterator[str]:
    """One box per metric: a wide table does not fit a phone."""
    for name, compared in found.metrics.items():
        metric = compared.metric
        told = {"metric": name, "A": center(compared.a, metric), "B": center(compared.b, metric)}
        if compared.estimate is not None:
            told |= {metric.by.value: estimate(compared), LEVEL: span(compared), "steps": str(compared.pairs)}
        told["verdict"] = verdict(compared)
        yield facts(metric.title, told.items())


def _caveats(found: Comparison) -> Iterator[str]:
    for sentence in caveats(found):
        yield f"<p>{escape(sentence)}</p>"


def _run(side: str, found: Comparison) -> str:
    run = found.a if side == "A" else found.b
    return facts(f"Run {side}", (("name", run.name), ("read from", run.kind), ("source", run.source)))


def _settings(found: Comparison) -> str:
    settings = {**found.settings.expected, **found.settings.unexpected}
    shown = {key: f"{a} | {b}" for key, (a, b) in settings.items()}
    if found.settings.unrecorded:
        shown["not recorded in"] = " and ".join(found.settings.unrecorded)
    return facts(f"Settings that differ, A | {found.label}", shown.items())
