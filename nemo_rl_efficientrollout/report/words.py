"""The report in words: summary tiles, the comparison, and whether the drafter stayed fresh."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from nemo_rl_efficientrollout.report.checked import Series
from nemo_rl_efficientrollout.report.reading import Ratio, Run
from nemo_rl_efficientrollout.report.steps import PARTS
from nemo_rl_efficientrollout.report.style import percent, short

NAMED_STEPS = 6  # of an alarm


class Tile(NamedTuple):
    """One number of the summary: what it is, its value, and a line of context."""

    label: str
    value: str
    note: str


def tiles(run: Run) -> list[Tile]:
    """The summary, in the order of reading."""
    rewards = _known(run.series["reward"])
    change = f"{short(rewards[0])} → {short(rewards[-1])}" if rewards else "–"
    found = [
        Tile("Reward", change, "first → last step"),
        Tile("Tokens", short(run.tokens), _responses(run)),
        _mean("Acceptance rate", run.series["acceptance_rate"], percent),
        _mean("Acceptance length τ", run.series["acceptance_length"], short),
        _mean("Speculating", run.series["speculating_fraction"], percent),
    ]
    if run.ratio:
        span = f"{run.ratio.min:.2f} to {run.ratio.max:.2f}, {_pairs(run.ratio)}"
        found.append(Tile("Rollout time vs plain", f"× {run.ratio.median:.2f}", span))
    return found


def comparison(ratio: Ratio) -> str:
    """What the ratio says, and what it does not."""
    change = abs(1 - ratio.median)
    direction = "less" if ratio.median < 1 else "more"
    text = (
        f"Median {ratio.median:.3f}, min {ratio.min:.3f}, max {ratio.max:.3f} over "
        f"{_pairs(ratio)} measured side by side; below 1 is faster. "
    )
    if ratio.pairs > 1 and ratio.min < 1 < ratio.max:
        return text + "The range includes 1, so these pairs show no sure difference."
    return text + f"Self-speculative rollouts took {percent(change)} {direction} time than plain."


def freshness(run: Run) -> tuple[bool, str] | None:
    """Whether drafter version = policy version at every step that recorded its lag."""
    lags = zip(run.numbers, run.series["drafter_version_lag"], strict=True)
    known = [(step, lag) for step, lag in lags if lag is not None]
    if not known:
        return None
    stale = [step for step, lag in known if lag]
    if not stale:
        return True, f"Drafter fresh: its version equals the policy's at all {len(known):,} steps."
    return False, (
        f"Drafter stale at {len(stale):,} of {len(known):,} steps (first: step {stale[0]:,}): "
        "its version differs from the policy's."
    )


def alarms(run: Run) -> Iterator[str]:
    """A line for each kind of alarm: its name, the steps at which it rang, and what it said first."""
    kinds = sorted(run.alarms, key=lambda alarm: alarm.name)
    for name, group in groupby(kinds, key=lambda alarm: alarm.name):
        found = list(group)
        steps = sorted({alarm.step for alarm in found})
        named = ", ".join(f"{step:,}" for step in steps[:NAMED_STEPS])
        more = f" and {len(steps) - NAMED_STEPS:,} more" if len(steps) > NAMED_STEPS else ""
        at = "step" if len(steps) == 1 else "steps"
        yield f"Alarm {name} at {at} {named}{more}: {found[0].text}"


def totals(run: Run) -> str:
    """What the seconds of all steps went to, the largest share first."""
    sums = {name: sum(_known(run.series[key])) for key, name, _ in PARTS}
    whole = sum(sums.values())
    if whole <= 0:
        return ""
    shares = sorted(((amount / whole, name) for name, amount in sums.items() if amount > 0), reverse=True)
    listed = ", ".join(f"{name} {percent(share)}" for share, name in shares)
    return f"Of {short(whole)} s of rollouts and re-quantizing: {listed}."


def progress(run: Run) -> str:
    """How far the run came."""
    if run.steps == 0:
        return "The run ended before its first step finished."
    return "1 step finished." if run.steps == 1 else f"{run.steps:,} steps finished."


def _mean(label: str, series: Series, show) -> Tile:
    values = _known(series)
    if not values:
        return Tile(label, "–", "no values")
    return Tile(label, show(sum(values) / len(values)), f"mean of steps; last {show(values[-1])}")


def _responses(run: Run) -> str:
    means, longest = (_known(run.series[f"response_{key}"]) for key in ("mean", "max"))
    if not means or not longest:
        return "generated"
    return f"responses: mean {short(sum(means) / len(means))}, longest {short(max(longest))}"


def _pairs(ratio: Ratio) -> str:
    return "1 pair" if ratio.pairs == 1 else f"{ratio.pairs} pairs"


def _known(series: Series) -> list[float]:
    return [value for value in series if value is not None]
