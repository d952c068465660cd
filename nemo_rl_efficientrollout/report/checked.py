"""Values of a report.json by kind: what is absent becomes empty, what is of the wrong kind is named in an error."""

from collections.abc import Mapping
from typing import Any

from nemo_rl_efficientrollout.errors import UserError

Series = list[float | None]
LARGEST = 1e15
"""Numbers beyond it are no count and no time: they are left out like NaN, before they overflow in a sum."""


def number(value: object, key: str) -> float | None:
    """A number that can be drawn, or None: JSON writers turn NaN into null, or leave it as NaN."""
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise UserError(f"the report's '{key}' holds {value!r:.40}, expected a number")
    # Compared before it is converted: an integer may be too long for a float.
    return float(value) if -LARGEST < value < LARGEST else None


def entries(value: object, key: str) -> list[Any]:
    """A list; empty for None."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise UserError(f"the report's '{key}' is {type(value).__name__}, expected a list")
    return list(value)


def mapping(value: object, key: str) -> dict[str, Any]:
    """Keys and values; empty for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"the report's '{key}' is {type(value).__name__}, expected key and value")
    return {str(name): item for name, item in value.items()}


def series(value: object, key: str) -> Series:
    """A list of numbers."""
    return [number(item, key) for item in entries(value, key)]


def columns(value: object, key: str, names: tuple[str, ...]) -> dict[str, Series]:
    """One series for each of `names`, from a list with one dict per step."""
    rows = [mapping(item, key) for item in entries(value, key)]
    return {name: [number(row.get(name), f"{key}.{name}") for row in rows] for name in names}
