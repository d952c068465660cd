"""Every figure of a report in the order of the page: what it is called, what it shows, what it is made of.

The page, W&B and the list of what a run lacks are all made from this one list.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nemo_rl_efficientrollout.report import decisions, predictions, steps, timeline, words
from nemo_rl_efficientrollout.report.reading import Run
from nemo_rl_efficientrollout.report.rollout import Timeline
from nemo_rl_efficientrollout.report.style import RED, Figure, figure

SHOWN = 24  # rollouts that can be selected; the newest ones
POINT_BUDGET = 2400  # buckets over all rollouts, so that many rollouts stay a small file
MARKS = 100  # alarms that a figure marks
THINNED = (
    "Long rollouts are thinned: in each of up to 300 equal spans of time the first point and the lowest and highest "
    "of each line are drawn. Acceptance (accepted / drafted) and tokens per second are over up to sixty equal spans."
)
SPENT = (
    "Times of engine steps are measured. How a step divides into drafting and verifying is by the cost model, scaled "
    "to the measured step."
)


@dataclass(frozen=True)
class Panel:
    """A figure with its words; `figure` is None where the run recorded nothing for it."""

    name: str
    title: str
    figure: Figure | None
    caption: str = ""


@dataclass(frozen=True)
class Rollout:
    """The figures of one rollout, and what each shows."""

    step: int
    sentence: str
    panels: list[Panel]


def by_step(run: Run) -> dict[str, list[Panel]]:
    """Figures over training steps, by the title of their section."""
    ratio = steps.ratio(run.ratio) if run.ratio else None
    compared = words.comparison(run.ratio) if run.ratio else ""
    spent = " ".join(filter(None, (words.totals(run), SPENT)))
    sections = {
        "Compared with plain rollouts": [Panel("ratio", "Rollout time, self-speculative / plain", ratio, compared)],
        "Learning and time": [
            Panel("reward", "Reward by step", steps.reward(run)),
            Panel("response", "Response length by step", steps.response_tokens(run)),
            Panel("seconds", "Seconds by step", steps.seconds(run)),
            Panel("spent", "Where each second of rollouts went", steps.seconds_spent(run), spent),
        ],
        "Speculation by step": [
            Panel("acceptance-rate", "Acceptance rate", steps.acceptance_rate(run)),
            Panel("acceptance-length", "Acceptance length", steps.acceptance_length(run)),
            Panel("speculating", "Speculating fraction", steps.speculating_fraction(run)),
            Panel("requantize", "Re-quantize time", steps.requantize_seconds(run)),
            Panel("predicted", "Predicted over measured", predictions.ratio_over_steps(run), predictions.OVER_STEPS),
        ],
    }
    for panels in sections.values():
        for panel in panels:
            if panel.figure and panel.name != "ratio":
                _mark_alarms(panel.figure, run)
    return sections


def by_rollout(run: Run, most: int = SHOWN, budget: int = POINT_BUDGET) -> list[Rollout]:
    """Figures of the newest rollouts, oldest first: every rollout has the same panels."""
    newest = run.timelines[-most:]
    buckets = min(300, budget // max(len(newest), 1))
    rollouts = [_rollout(one, buckets) for one in newest]
    drawn = {panel.name for one in rollouts for panel in one.panels if panel.figure}
    return [replace(one, panels=[_filled(panel, drawn) for panel in one.panels]) for one in rollouts]


def lacking(sections: dict[str, list[Panel]], rollouts: list[Rollout]) -> list[str]:
    """Titles of the figures for which nothing was recorded."""
    known = rollouts[-1].panels if rollouts else [Panel(name, title, None) for name, title, *_ in ROLLOUT]
    return [panel.title for panels in (known, *sections.values()) for panel in panels if panel.figure is None]


ROLLOUT: tuple[tuple[str, str, Callable[[Timeline, int], Figure | None], Callable[[Timeline], str]], ...] = (
    ("timeline", "Rollout over time", timeline.draw, lambda _: THINNED),
    ("map", "Decision map and the rollout's path", decisions.decision_map, decisions.caption),
    ("model", "Cost model against measured steps", predictions.against_measured, predictions.caption),
)
"""Name, title, figure and caption of what is drawn of one rollout."""


def _rollout(one: Timeline, buckets: int) -> Rollout:
    panels = []
    for name, title, draw, caption in ROLLOUT:
        drawn = draw(one, buckets)
        panels.append(Panel(name, title, drawn, caption(one) if drawn else ""))
    return Rollout(one.step, timeline.sentence(one), panels)


def _filled(panel: Panel, drawn: set[str]) -> Panel:
    """The panel; where only other rollouts have it, with a word in its place, lest theirs stay on the page."""
    if panel.figure or panel.name not in drawn:
        return panel
    word = {"text": "Not recorded for this rollout.", "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    hidden = {"visible": False}
    blank = figure([], 400, xaxis=hidden, yaxis=hidden, annotations=[word | {"showarrow": False}])
    return replace(panel, figure=blank)


def _mark_alarms(drawn: Figure, run: Run) -> None:
    """A line at each step at which an alarm rang."""
    line = {"color": RED, "width": 1.5, "dash": "dot"}
    shown = sorted({alarm.step for alarm in run.alarms} & set(run.numbers))[:MARKS]
    marks = [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line} for x in shown]
    if marks:
        drawn["layout"].setdefault("shapes", []).extend(marks)
