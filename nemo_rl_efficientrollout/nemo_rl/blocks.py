"""NeMo-RL's configuration where this package looks at it: blocks that hold keys, sizes that are whole numbers."""

from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError, shown

Block = Mapping[Any, Any]


def block(config: Block, key: str, where: str = "") -> Block:
    """The block `key` of the one at `where`; empty if it is missing or null. Raises SettingsError."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SettingsError(f"{_path(where, key)} is {shown(value)}, expected a block of keys and values")
    return value


def whole(config: Block, key: str, where: str, default: int) -> int:
    """A whole number; `default` if it is missing or null. Raises SettingsError."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
        raise SettingsError(f"{_path(where, key)} is {shown(value)}, expected a whole number")
    return value


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
