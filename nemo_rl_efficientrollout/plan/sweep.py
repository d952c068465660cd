"""What-if: one thing changed at a time, everything else as it was, and the same chance."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import UserError, nearest
from .assumptions import Range
from .forecast import Forecast
from .gpus import KERNELS
from .scenario import Scenario

MOST_VALUES = 16
"""Of one axis: each is a plan of its own."""


@dataclass(frozen=True)
class Point:
    """One value of one axis."""

    axis: str
    value: float | str
    scenario: Scenario


@dataclass(frozen=True)
class Answer:
    """What the change comes to."""

    point: Point
    forecast: Forecast


def _batch(scenario: Scenario, value: float) -> Scenario:
    responses = int(value) * scenario.engines
    if responses % scenario.samples:
        raise UserError(
            f"--sweep batch={value:g}: {responses} responses on {scenario.engines} engines are no multiple of"
            f" {scenario.samples} samples; give another batch, or --samples"
        )
    return replace(scenario, prompts=responses // scenario.samples)


def _tensor_parallel(scenario: Scenario, value: float) -> Scenario:
    gpus = scenario.gpus
    if gpus % int(value):
        raise UserError(f"--sweep tp={value:g}: {gpus} GPUs do not divide into engines of {value:g}; give another size")
    return replace(scenario, engines=gpus // int(value), tensor_parallel=int(value))


def _alpha(scenario: Scenario, value: float) -> Scenario:
    if not 0.0 < value < 1.0:
        raise UserError(f"--sweep alpha={value:g}: expected a number above 0 and below 1; correct it")
    known = Range(1.0 - value, 1.0 - value, "swept")
    return replace(scenario, rejected={"": known})


AXES: dict[str, tuple[str, Callable[[Scenario, float], Scenario]]] = {
    "batch": ("responses per engine and step", _batch),
    "max-length": ("tokens at which a response is cut off", lambda s, v: replace(s, max_length=int(v))),
    "alpha": ("acceptance α", _alpha),
    "tp": ("GPUs per engine, on as many GPUs", _tensor_parallel),
}
"""By name: title, and the scenario with a value in its place."""
FORMAT = "format"


def points(scenario: Scenario, sweeps: Sequence[str]) -> list[Point]:
    """All changes of `axis=value,value,…`.

    Raises:
        UserError: an unknown axis, with the nearest named, or a value that cannot be.
    """
    return [point for text in sweeps for point in _axis(scenario, text)]


def _axis(scenario: Scenario, text: str) -> Iterator[Point]:
    axis, separator, values = text.partition("=")
    known = [*AXES, FORMAT]
    if not separator or axis not in known:
        raise UserError(f"--sweep {text}: expected one of {', '.join(known)}, and =VALUE,VALUE{nearest(axis, known)}")
    given = [value.strip() for value in values.split(",") if value.strip()]
    if not 1 <= len(given) <= MOST_VALUES:
        raise UserError(f"--sweep {text}: expected 1 to {MOST_VALUES} values; it has {len(given)}")
    for value in given:
        if axis == FORMAT:
            if value not in KERNELS:
                raise UserError(f"--sweep {text}: unknown format '{value}'{nearest(value, KERNELS)}")
            yield Point(axis, value, replace(scenario, formats=(value,)))
            continue
        number = _number(text, axis, value)
        yield Point(axis, number, AXES[axis][1](scenario, number))


def _number(text: str, axis: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"--sweep {text}: {value!r} is no number") from None
    if axis != "alpha" and (number < 1 or not number.is_integer()):
        raise UserError(f"--sweep {text}: {value} is no whole number of at least 1")
    return number
