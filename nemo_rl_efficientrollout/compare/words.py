"""The comparison in words and numbers for reading.

A difference that is not seen is never called equality: the sentences say what the interval excludes.
"""

import math
from collections.abc import Iterator

from ..report.style import NO_BREAK, short
from .bootstrap import CONFIDENCE, LEAST_PAIRS
from .comparison import Compared, Comparison, Summary
from .metrics import GENERATION, MEAN_TOKENS, MISMATCH, PER_TOKEN, REWARD, STEP_TIME, By, Metric
from .settings import Differences

LEVEL = f"{100 * CONFIDENCE:.0f}{NO_BREAK}%"
NAMED = 6  # settings that a sentence names


def center(summary: Summary | None, metric: Metric) -> str:
    """A run's median or mean with its unit; a dash for none."""
    if summary is None:
        return "–"
    return _signed(short(summary.center)) + ("" if metric.unit == "1" else f"{NO_BREAK}{metric.unit}")


def estimate(compared: Compared) -> str:
    """`× 0.620`, or `+0.013` for a difference; a dash for none."""
    if compared.estimate is None:
        return "–"
    if compared.metric.by is By.RATIO:
        return f"×{NO_BREAK}{_ratio(compared.estimate)}"
    return f"{'+' if compared.estimate >= 0 else ''}{_signed(short(compared.estimate))}"


def span(compared: Compared) -> str:
    """The interval as `0.580 to 0.660`; a dash for none."""
    if compared.interval is None:
        return "–"
    show = _ratio if compared.metric.by is By.RATIO else short
    return _signed(f"{show(compared.interval.low)} to {show(compared.interval.high)}")


def verdict(compared: Compared, label: str = "B") -> str:
    """What one metric shows: a difference with its interval, or the smallest difference that its interval excludes."""
    if compared.a is None or compared.b is None:
        return f"only in {label if compared.a is None else 'A'}"
    if compared.pairs == 0:
        return "no step has it in both runs"
    if compared.estimate is None:
        return "no ratio: not all values are above 0"
    if compared.interval is None:
        return f"{estimate(compared)}, from too few steps for an interval ({compared.pairs} of at least {LEAST_PAIRS})"
    low, high = compared.interval.low, compared.interval.high
    if low == high and not compared.differs:
        return "the same values"
    if compared.metric.by is By.RATIO:
        if compared.differs:
            return f"{label} is {estimate(compared)} of A ({span(compared)})"
        return f"no difference seen that exceeds −{_share(1 - low)} or +{_share(high - 1)}"
    if compared.differs:
        direction = "higher" if compared.estimate > 0 else "lower"
        return f"{label} is {direction} by {short(abs(compared.estimate))} ({label} − A: {span(compared)})"
    return f"no difference seen that exceeds {_at_least(max(-low, high))}"


def conclusions(found: Comparison) -> Iterator[str]:
    """What to take away, most important first."""
    yield from _rollouts(found)
    if (step := found.metrics.get(STEP_TIME)) and step.pairs:
        yield f"Step time: {verdict(step, found.label)}."
    for name, what in ((REWARD, "Reward"), (MISMATCH, "Mismatch of token probabilities")):
        if (level := found.metrics.get(name)) and level.pairs:
            yield f"{what}: {verdict(level, found.label)}."
    if found.settings.unexpected:
        yield f"Settings other than the rollouts' differ, and may be a cause: {_listed(found.settings)}."


def _rollouts(found: Comparison) -> Iterator[str]:
    """Rollout time, and whether it is speed or only other lengths."""
    time, token, length = (found.metrics.get(name) for name in (GENERATION, PER_TOKEN, MEAN_TOKENS))
    if time is None or not time.pairs:
        return
    yield f"Rollout time: {verdict(time, found.label)}."
    if token is None or not token.pairs:
        yield "The lengths of responses are not known in both runs: other lengths could pass for speed."
        return
    yield f"Rollout time per generated token: {verdict(token, found.label)}."
    if length is None or length.estimate is None:
        return
    if time.differs and token.differs is False:
        yield (
            f"{found.label}'s responses are {estimate(length)} as long, and per generated token no difference is seen: "
            "what differs is the lengths, not the speed."
        )
    elif time.differs is False and token.differs:
        yield f"{found.label}'s responses are {estimate(length)} as long, which hides the difference per token."


def caveats(found: Comparison) -> Iterator[str]:
    """How the figures were made, and what they cannot say."""
    steps = found.steps
    plural = "step of each run is" if found.skipped == 1 else f"{found.skipped} steps of each run are"
    left_out = f"the first {plural} left out as warm-up" if found.skipped else "no warm-up is left out"
    yield f"Common steps: {len(steps)}, from {steps[0]} to {steps[-1]}; {left_out}."
    yield (
        f"Intervals are {LEVEL}, so about one in twenty misses by chance, and cover the variation between the steps "
        "of these two runs; another seed or machine may differ by more."
    )
    yield "A rollout lasts as long as its longest response, so time per token also depends on how lengths spread."
    if PER_TOKEN in found.metrics and not found.responses_known:
        yield (
            "The number of responses per step is not recorded: time per token is that of the mean response, "
            "and its ratio takes both runs to sample equally many."
        )
    for side, names in found.missing.items():
        if names:
            yield f"Missing in {found.label if side == 'B' else side}: {', '.join(names)}."
    if found.settings.unrecorded:
        sides = " and ".join(found.label if side == "B" else side for side in found.settings.unrecorded)
        yield f"No settings are recorded in {sides}: whether they differ is unknown."


def _listed(settings: Differences) -> str:
    named = [f"{key} ({a} | {b})" for key, (a, b) in list(settings.unexpected.items())[:NAMED]]
    more = len(settings.unexpected) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _share(value: float) -> str:
    return f"{_at_least(100 * max(value, 0.0))}{NO_BREAK}%"


def _at_least(value: float) -> str:
    """Two significant digits, rounded up: what is excluded must not be understated."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.2g}"
