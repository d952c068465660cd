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
from nemo_rl_efficientrollout.report import words
from nemo_rl_efficientrollout.report.alternative import alternative
from nemo_rl_efficientrollout.report.page import card, facts, page
from nemo_rl_efficientrollout.report.panels import SHOWN, Panel, Rollout, by_rollout, by_step, lacking
from nemo_rl_efficientrollout.report.reading import Run, read
from nemo_rl_efficientrollout.report.style import Figure

DEEPEST = 8  # level of settings that has a line for each entry
NO_SCRIPT = "<noscript><p>The figures need JavaScript; it is inside this file.</p></noscript>"


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write `report` (a run's report.json) as HTML to `path`, whole or not at all."""
    write_page(render(read(report)), path)


def write_page(text: str, path: Path) -> None:
    """Write a page, whole or not at all, and its folder if need be. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate, legal in JSON, must not cost the whole report.
        write_whole(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"cannot write the report to {path}: {error.strerror or error}") from error


def render(run: Run) -> str:
    """The whole page of one run."""
    shown = Shown(run)
    body = f"<header><h1>{escape(run.name)}</h1>{shown.header()}</header><main>{shown.main()}</main>{NO_SCRIPT}"
    return page(run.name, body, {"figures": shown.figures, "pickers": shown.pickers})


def figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure of a report.json by its name, as plotly takes it; of the rollouts the newest."""
    run = read(report)
    panels = [panel for section in by_step(run).values() for panel in section]
    panels += [panel for rollout in by_rollout(run, most=1) for panel in rollout.panels]
    return {panel.name: panel.figure for panel in panels if panel.figure}


class Shown:
    """One run as HTML; `prefix` keeps the names of its figures apart from those of other runs on the page."""

    def __init__(self, run: Run, prefix: str = "", most: int = SHOWN) -> None:
        self.run, self.prefix = run, prefix
        self._sections, self._rollouts = by_step(run), by_rollout(run, most)
        self.figures: dict[str, Figure] = {
            f"{prefix}{panel.name}": panel.figure
            for panels in self._sections.values()
            for panel in panels
            if panel.figure
        }
        self.pickers = {f"{prefix}rollout": [self._option(rollout) for rollout in self._rollouts]}
        if not self._rollouts:
            self.pickers = {}

    def header(self) -> str:
        """What there is to know at a glance."""
        return "\n".join(self._header())

    def main(self) -> str:
        """The figures."""
        return "\n".join(self._main())

    def _header(self) -> Iterator[str]:
        run = self.run
        yield f'<p class="lead">{escape(words.progress(run))}</p>'
        for line in words.alarms(run):
            yield f'<p class="notice bad alarm">{escape(line)}</p>'
        fresh = words.freshness(run)
        if fresh:
            yield f'<p class="notice {"good" if fresh[0] else "bad"}">{fresh[1]}</p>'
        if missing := lacking(self._sections, self._rollouts):
            listed = ", ".join(f"“{title}”" for title in missing)
            yield f'<p class="notice missing">Not recorded in this run, and so not drawn: {listed}.</p>'
        yield '<ul class="tiles">'
        for label, value, note in words.tiles(run):
            yield f"<li><span>{label}</span><strong>{value}</strong><small>{note}</small></li>"
        yield "</ul>"

    def _main(self) -> Iterator[str]:
        yield from self._inside()
        for title, panels in self._sections.items():
            drawn = [self._card(panel, panel.figure) for panel in panels if panel.figure]
            if drawn:
                yield f'<section><h2>{title}</h2><div class="cards">{"".join(drawn)}</div></section>'
        run = self.run
        parts = {"Model": _grouped(run.model), "Machine": run.machine, "Settings": run.settings}
        boxes = (
            facts(title, ((key, _plain(value)) for key, value in _flat(values)), "Not recorded.")
            for title, values in parts.items()
        )
        yield f'<section><h2>About this run</h2><div class="facts">{"".join(boxes)}</div></section>'

    def _inside(self) -> Iterator[str]:
        if not self._rollouts:
            return
        last = len(self._rollouts) - 1
        options = "".join(
            f'<option value="{i}"{" selected" if i == last else ""}>{rollout.step}</option>'
            for i, rollout in enumerate(self._rollouts)
        )
        picker, sentence = f"{self.prefix}rollout", f"{self.prefix}sentence"
        yield "<section><h2>Inside a rollout</h2>"
        yield f'<label class="pick">Training step <select id="{picker}">{options}</select></label>'
        yield f'<p id="{sentence}" aria-live="polite">{escape(self._rollouts[last].sentence)}</p>'
        first, *others = (self._card(panel, panel.figure) for panel in self._rollouts[last].panels if panel.figure)
        yield f'{first}<div class="cards beside">{"".join(others)}</div></section>'

    def _card(self, panel: Panel, figure: Figure) -> str:
        return card(f"{self.prefix}{panel.name}", panel.title, figure, panel.caption)

    def _option(self, rollout: Rollout) -> dict[str, Any]:
        """What page.js puts on the page when this rollout is picked."""
        drawn = [(f"{self.prefix}{panel.name}", panel, panel.figure) for panel in rollout.panels if panel.figure]
        return {
            "texts": {
                f"{self.prefix}sentence": rollout.sentence,
                **{f"{id}-words": one.caption for id, one, _ in drawn},
            },
            "figures": {id: {**figure, "said": f"{one.title}. {alternative(figure)}"} for id, one, figure in drawn},
        }


def _grouped(model: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter count in groups of digits; a setting keeps the digits it was typed with."""
    count = model.get("parameters")
    return {**model, "parameters": f"{count:,}"} if isinstance(count, int) else dict(model)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `gate.policy`, in the words of the command line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < DEEPEST:
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
