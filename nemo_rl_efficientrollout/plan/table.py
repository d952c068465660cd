"""A plan, or a sweep, as tables for the terminal."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..report.style import short
from .forecast import Forecast, Spread, Way
from .sweep import Answer
from .words import LEVEL, assumptions, caveats, facts, gib, problems, title, verdict

COLUMNS = ("rollout, s", "step, s", "plain / rollout", "plain / step", "speculating, %", "γ")


def show(found: Forecast, console: Console) -> None:
    """Print what to run, every way beside it, and what it rests on."""
    console.print(f"{title(found.scenario)}: predicted, not measured", soft_wrap=True, style="bold", markup=False)
    for name, text in facts(found).items():
        console.print(f"{name}: {text}", soft_wrap=True, markup=False, style="dim")
    console.print(_table(found))
    console.print(_memory(found))
    for problem in problems(found):
        console.print(problem, soft_wrap=True, markup=False)
    console.print(verdict(found), soft_wrap=True, markup=False, style="bold")
    for sentence in caveats(found):
        console.print(sentence, soft_wrap=True, markup=False, style="dim")


def show_assumptions(found: Forecast, console: Console) -> None:
    """Print every range that was drawn from, and why."""
    table = Table("assumed", "low", "high", "reason", box=SIMPLE_HEAD, pad_edge=False)
    for row in assumptions(found):
        table.add_row(*row)
    console.print(table)


def show_sweep(answers: Sequence[Answer], console: Console) -> None:
    """Print the best format of every point beside plain decoding."""
    table = _columns("", "plain, s", "best", *COLUMNS[:-1])
    for answer in answers:
        found, point = answer.forecast, answer.point
        value = point.value if isinstance(point.value, str) else f"{point.value:g}"
        name = f"{point.axis} = {value}"
        table.add_row(name, _range(found.plain.rollout_s, short), found.best.name, *_cells(found.best)[:-1])
    console.print(f"What if: one thing changed at a time; ranges {LEVEL}", soft_wrap=True, markup=False)
    console.print(table)
    for answer in answers:
        for problem in problems(answer.forecast):
            console.print(f"{answer.point.axis} = {answer.point.value}: {problem}", soft_wrap=True, markup=False)


def _table(found: Forecast) -> Table:
    table = _columns("", *COLUMNS, "best in")
    for way in (*found.ways, found.plain):
        best = "–" if way.refusal else f"{100 * way.best:.0f} %"
        table.add_row(way.name, *_cells(way), best)
    return table


def _memory(found: Forecast) -> Table:
    table = _columns("GiB per GPU", "policy", "drafter", "drafts", "KV cache", "KV tokens", "fits")
    for way in (*found.ways, found.plain):
        m = way.memory
        parts = (gib(m.policy), gib(m.drafter), f"{m.distributions / 2**30:.2f}", gib(m.kv), f"{m.kv_tokens:,}")
        table.add_row(way.name, *parts, "no" if m.problem else "yes")
    return table


def _cells(way: Way) -> tuple[str, ...]:
    times = _range(way.rollout_s, short), _range(way.step_s, short)
    ratios = [_range(spread, "{:.2f}".format) for spread in (way.rollout_ratio, way.step_ratio)]
    share = _range(way.speculating, lambda part: f"{100 * part:.0f}")
    return *times, *ratios, share, _range(way.draft_length, "{:.1f}".format)


def _range(spread: Spread | None, text: Callable[[float], str]) -> str:
    if spread is None:
        return "–"
    return f"{text(spread.middle)} ({text(spread.low)}–{text(spread.high)})"


def _columns(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
