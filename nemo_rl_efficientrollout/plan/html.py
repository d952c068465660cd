"""A plan as one HTML page that needs nothing beside itself."""

from collections.abc import Iterator, Sequence
from html import escape

from ..report.page import card, page
from ..report.page import facts as box
from ..report.style import Figure
from .figures import Drawn, draw, multiples
from .forecast import Forecast, Way
from .sweep import Answer
from .words import (
    HONESTY,
    LEVEL,
    assumptions,
    caveats,
    facts,
    memory,
    number,
    problems,
    ratio,
    seconds,
    share,
    title,
    verdict,
)


def render(found: Forecast, answers: Sequence[Answer] = ()) -> str:
    """The whole page, with a row of small figures for every swept axis. Strings reach it through `escape` alone."""
    figures: dict[str, Figure] = {}
    body = "\n".join(_body(found, answers, figures))
    return page(title(found.scenario), body, {"figures": figures})


def _body(found: Forecast, answers: Sequence[Answer], figures: dict[str, Figure]) -> Iterator[str]:
    yield f"<header><h1>{escape(title(found.scenario))}</h1>"
    yield f'<p class="notice bad">{HONESTY}</p><p class="lead">{escape(verdict(found))}</p><ul class="tiles">'
    for label, value, note in _tiles(found):
        yield f"<li><span>{label}</span><strong>{escape(value)}</strong><small>{escape(note)}</small></li>"
    yield '</ul><div class="facts">'
    yield box("What was asked", facts(found).items())
    for way in (*found.ways, found.plain):
        yield box(way.name, _of(way).items())
    yield "</div>"
    for problem in problems(found):
        yield f'<p class="notice bad">{escape(problem)}</p>'
    yield '</header><main><section><h2>The plan</h2><div class="cards">'
    yield from _cards(list(draw(found)), figures)
    yield "</div></section>"
    if answers:
        yield f'<section><h2>What if</h2><p class="none">One thing changed at a time; ranges {LEVEL}.</p>'
        for axis, meaning, drawn in multiples(answers):
            yield f'<h3>{escape(axis)}: {escape(meaning)}</h3><div class="cards">'
            yield from _cards(drawn, figures)
            yield "</div>"
        yield "</section>"
    yield '<section><h2>What was assumed</h2><div class="facts">'
    for name, low, high, reason in assumptions(found):
        yield box(name, (("5 to 95 %", f"{low} to {high}"), ("why", reason)))
    yield "</div></section><section><h2>How to read this</h2>"
    for sentence in caveats(found):
        yield f"<p>{escape(sentence)}</p>"
    yield "</section></main><noscript><p>The figures need JavaScript; it is inside this file.</p></noscript>"


def _tiles(found: Forecast) -> Iterator[tuple[str, str, str]]:
    best = found.best
    yield "best", best.name, f"fastest in {100 * best.best:.0f} % of the draws"
    for label, text in (
        ("rollout", seconds(best.rollout_s)),
        ("plain / rollout", ratio(best.rollout_ratio)),
        ("step", seconds(best.step_s)),
        ("plain / step", ratio(best.step_ratio)),
        ("time speculating", share(best.speculating)),
    ):
        value, _, rest = text.partition(" (")
        yield label, value, f"{rest.rstrip(')')}, {LEVEL}" if rest else ""


def _of(way: Way) -> dict[str, str]:
    found = {
        "rollout": seconds(way.rollout_s),
        "step": seconds(way.step_s),
        "plain / rollout": ratio(way.rollout_ratio),
        "plain / step": ratio(way.step_ratio),
        "time speculating": share(way.speculating),
        "mean γ": number(way.draft_length),
        "fastest in": f"{100 * way.best:.0f} % of the draws",
    }
    return ({"not simulated": way.refusal} if way.refusal else found) | {"GiB per GPU: policy + drafter": memory(way)}


def _cards(drawn: Sequence[Drawn], figures: dict[str, Figure]) -> Iterator[str]:
    for name, title_of_figure, one in drawn:
        figures[name] = one
        yield card(name, title_of_figure, one)
