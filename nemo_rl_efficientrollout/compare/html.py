"""The comparison as one HTML page that needs nothing beside itself."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from ..errors import UserError
from ..files import write_whole
from ..report.page import page
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


def write_page(found: Comparison, path: Path) -> None:
    """Write the page to `path`, whole or not at all. Raises UserError: the file cannot be written."""
    try:
        write_whole(path, render(found).encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another place with --out") from None


def render(found: Comparison) -> str:
    """The whole page. Strings of the runs reach it only through `escape`, figures only as JSON."""
    drawn = list(draw(found))
    body = "\n".join(_body(found, drawn))
    return page(f"{found.a.name} | {found.b.name}", body, {"figures": {name: one for name, _, one in drawn}})


def _body(found: Comparison, drawn: list[tuple[str, str, Figure]]) -> Iterator[str]:
    yield f"<header><h1>{escape(found.a.name)} | {escape(found.b.name)}</h1>"
    yield '<p class="lead">Two training runs side by side. A is the baseline.</p><ul class="tiles">'
    for name in TILES:
        if compared := found.metrics.get(name):
            note = f"{LEVEL}: {span(compared)}" if compared.interval else verdict(compared)
            title = escape(compared.metric.title)
            yield f"<li><span>{title}</span><strong>{estimate(compared)}</strong><small>{note}</small></li>"
    yield "</ul>"
    for sentence in conclusions(found):
        yield f"<p>{escape(sentence)}</p>"
    yield '<div class="facts">'
    for side, run in (("A", found.a), ("B", found.b)):
        facts = {"name": run.name, "read from": run.kind, "source": run.source}
        yield _details(f"Run {side}", facts)
    settings = {**found.settings.expected, **found.settings.unexpected}
    shown = {key: f"{a} | {b}" for key, (a, b) in settings.items()}
    if found.settings.unrecorded:
        shown["not recorded in"] = " and ".join(found.settings.unrecorded)
    yield _details("Settings that differ, A | B", shown)
    yield "</div></header><main><section><h2>Figures</h2>"
    warm_up = " The gray part is left out as warm-up." if found.skipped else ""
    yield f'<p class="none">{BANDS}{warm_up}</p><div class="cards">'
    for name, title, one in drawn:
        height = one["layout"]["height"]
        plot = f'<div class="plot" id="{name}" style="height:{height}px"></div>'
        yield f"<figure><h3>{escape(title)}</h3>{plot}</figure>"
    yield '</div></section><section><h2>All metrics</h2><div class="facts">'
    yield from _metrics(found)
    yield "</div></section><section><h2>How to read this</h2>"
    for sentence in caveats(found):
        yield f"<p>{escape(sentence)}</p>"
    yield "</section></main><noscript><p>The figures need JavaScript; it is inside this file.</p></noscript>"


def _metrics(found: Comparison) -> Iterator[str]:
    """One box per metric: a wide table does not fit a phone."""
    for name, compared in found.metrics.items():
        metric = compared.metric
        facts = {"metric": name, "A": center(compared.a, metric), "B": center(compared.b, metric)}
        if compared.estimate is not None:
            facts |= {metric.by.value: estimate(compared), LEVEL: span(compared), "steps": str(compared.pairs)}
        yield _details(metric.title, facts | {"verdict": verdict(compared)})


def _details(title: str, facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    content = f"<dl>{rows}</dl>" if rows else '<p class="none">None.</p>'
    return f"<details open><summary>{escape(title)}</summary>{content}</details>"
