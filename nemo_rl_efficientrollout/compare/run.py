"""A run as every reader gives it: metrics by NeMo-RL's names, one value per training step."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

Series = dict[int, float]
"""Values by training step, in ascending order; every value is finite, and so are ratios and squares of two."""
SMALLEST, LARGEST = 1e-38, 1e38
"""Of what is measured: the range of float32."""


@dataclass(frozen=True)
class Run:
    """One training run.

    name: as its user called it. source: where it was read from. kind: what it was read from, in words.
    config: settings by dotted key, empty where none are recorded. series: metrics by NeMo-RL's names.
    """

    name: str
    source: str
    kind: str
    config: dict[str, Any]
    series: dict[str, Series]


def collect(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, Series]:
    """Series by name from rows of (step, metrics), flat or nested. Of two values for one step the later one counts."""
    found: dict[str, Series] = {}
    for step, metrics in rows:
        for name, value in _numbers(metrics):
            found.setdefault(name, {})[step] = value
    return {name: dict(sorted(series.items())) for name, series in found.items()}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key, entries of lists by their place, as NeMo-RL writes them for TensorBoard."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:  # JSON has no infinity
            found[f"{prefix}{key}"] = str(value) if isinstance(value, float) and not math.isfinite(value) else value
    return found


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers that were measured, by name. W&B joins nested keys with dots; NeMo-RL's own names have slashes alone."""
    for key, value in metrics.items():
        name = f"{prefix}{key}".replace(".", "/")
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/")
        elif isinstance(value, Real) and not isinstance(value, bool) and _is_measurable(float(value)):
            yield name, float(value)


def _is_measurable(value: float) -> bool:
    return value == 0 or SMALLEST <= abs(value) <= LARGEST
