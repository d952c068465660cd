"""The comparison as tables for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .comparison import Compared, Comparison
from .words import LEVEL, caveats, center, conclusions, estimate, span


def show(found: Comparison, console: Console) -> None:
    """Print both runs, every metric, what to take away, and how it was made."""
    for side, run in (("A", found.a), ("B", found.b)):
        console.print(f"{side}: {run.name} ({run.kind}, {run.source})", soft_wrap=True, markup=False)
    both = {name: compared for name, compared in found.metrics.items() if compared.a and compared.b}
    if both:
        console.print(_of_both(both))
    if len(both) < len(found.metrics):
        console.print(_of_one({name: one for name, one in found.metrics.items() if name not in both}))
    for sentence in conclusions(found):
        console.print(sentence, soft_wrap=True, markup=False)
    for sentence in caveats(found):
        console.print(sentence, soft_wrap=True, markup=False, style="dim")


def _of_both(metrics: dict[str, Compared]) -> Table:
    table = _table("in both runs")
    for column in ("A", "B", f"B / A or B − A ({LEVEL})", "steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in metrics.items():
        change = f"{estimate(found)} ({span(found)})"
        table.add_row(name, center(found.a, found.metric), center(found.b, found.metric), change, str(found.pairs))
    return table


def _of_one(metrics: dict[str, Compared]) -> Table:
    table = _table("in one run")
    for column in ("A", "B"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in metrics.items():
        table.add_row(name, center(found.a, found.metric), center(found.b, found.metric))
    return table


def _table(title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, overflow="fold")  # a name that is cut off cannot be looked up
    return table
