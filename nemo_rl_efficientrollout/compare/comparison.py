"""Two runs held against each other, metric by metric, over the steps that both have."""

from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from .bootstrap import Interval, Values, difference_of_means, interval, log_ratio_of_medians
from .derive import derive
from .metrics import METRICS, By, Metric, by_position
from .run import Run, Series
from .settings import Differences, differences


@dataclass(frozen=True)
class Summary:
    """One run's values: the median for a ratio and the mean for a difference, and where the middle 80 % lie."""

    center: float
    p10: float
    p90: float
    steps: int


@dataclass(frozen=True)
class Compared:
    """One metric. `estimate` is B / A or B - A, None where it cannot be had; `pairs` counts the steps behind it.

    A side without the metric is None. Where both have it, both summaries are over the same steps.
    """

    metric: Metric
    a: Summary | None
    b: Summary | None
    estimate: float | None
    interval: Interval | None
    pairs: int

    @property
    def differs(self) -> bool | None:
        """Whether the interval excludes "no change"; None without an interval."""
        neutral = 1.0 if self.metric.by is By.RATIO else 0.0
        return None if self.interval is None else neutral not in self.interval


@dataclass(frozen=True)
class Comparison:
    """Everything that two runs say about each other; A is the baseline.

    steps: the compared training steps, ascending. skipped: first steps left out of each run.
    missing: names of metrics that a run of NeMo-RL has, by who lacks them (`A`, `B`, `both`).
    responses_known: whether the number of responses per step was recorded, for tokens per second.
    label: what B is called where several runs are held against A.
    """

    a: Run
    b: Run
    skipped: int
    steps: list[int]
    metrics: dict[str, Compared]
    missing: dict[str, list[str]]
    settings: Differences
    responses_known: bool
    label: str = "B"


def compare(a: Run, b: Run, skip: int = 1, label: str = "B") -> Comparison:
    """Compare run B with baseline A; the first `skip` training steps of each, which warm up, are left out.

    Raises:
        UserError: a run has no step with a known metric, or the runs have no step in common.
    """
    a, b, known = derive(a, b)
    steps = _common_steps(a, b, skip)
    found: dict[str, Compared] = {}
    missing: dict[str, list[str]] = {"A": [], "B": [], "both": []}
    for metric in (*METRICS, *by_position(a.series.keys() | b.series.keys())):
        series = a.series.get(metric.name, {}), b.series.get(metric.name, {})
        compared = _compared(metric, *({step: s[step] for step in steps if step in s} for s in series))
        if compared.a or compared.b:
            found[metric.name] = compared
        if metric in METRICS and (absent := _absent(compared)) and (metric.expected or absent != "both"):
            missing[absent].append(metric.name)
    return Comparison(a, b, skip, steps, found, missing, differences(a, b), known, label)


def training_steps(run: Run) -> list[int]:
    """Steps with any known metric: validation and set-up are logged at steps that trained nothing."""
    return sorted({step for metric in METRICS for step in run.series.get(metric.name, {})})


def _common_steps(a: Run, b: Run, skip: int) -> list[int]:
    spans = []
    for run in (a, b):
        steps = training_steps(run)
        if not steps:
            raise UserError(
                f"{run.source} has no history of training: none of NeMo-RL's timing/train/… or train/… metrics; "
                "give a run with at least one finished step"
            )
        spans.append(steps)
    common = sorted(set(spans[0][skip:]) & set(spans[1][skip:]))
    if not common:
        ranges = " and ".join(
            f"{run.source} has steps {steps[0]} to {steps[-1]}" for run, steps in zip((a, b), spans, strict=True)
        )
        raise UserError(
            f"no common steps: {ranges}, the first {skip} of each left out; give longer runs, or less --skip"
        )
    return common


def _absent(compared: Compared) -> str | None:
    if compared.a and compared.b:
        return None
    return "A" if compared.b else "B" if compared.a else "both"


def _compared(metric: Metric, a: Series, b: Series) -> Compared:
    paired = [step for step in a if step in b]
    if not paired:
        sides = (_summary(metric, np.array(list(series.values()))) for series in (a, b))
        return Compared(metric, *sides, estimate=None, interval=None, pairs=0)
    left, right = (np.array([series[step] for step in paired]) for series in (a, b))
    estimate, found = _estimate(metric, left, right)
    return Compared(metric, _summary(metric, left), _summary(metric, right), estimate, found, len(paired))


def _estimate(metric: Metric, a: Values, b: Values) -> tuple[float | None, Interval | None]:
    if metric.by is By.DIFFERENCE:
        return float(difference_of_means(a, b)), interval(a, b, difference_of_means, b - a)
    if min(a.min(), b.min()) <= 0:
        return None, None  # a time of zero is one that was not taken
    found = interval(a, b, log_ratio_of_medians, np.log(b / a))
    return float(np.exp(log_ratio_of_medians(a, b))), found and found.exp()


def _summary(metric: Metric, values: Values) -> Summary | None:
    if not len(values):
        return None
    center = np.median(values) if metric.by is By.RATIO else np.mean(values)
    low, high = np.quantile(values, [0.1, 0.9])
    return Summary(float(center), float(low), float(high), len(values))
