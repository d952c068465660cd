"""Replace a name of somebody else's module by a wrapper around it, once."""

from collections.abc import Callable
from functools import wraps
from typing import Any

_MARK = "_efficientrollout_original"


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Set `owner.name` to `make(original)`. Raises RuntimeError if this package wrapped it before."""
    original = getattr(owner, name)
    if is_wrapped(owner, name):
        raise RuntimeError(f"{getattr(owner, '__name__', owner)}.{name} is patched already")
    replacement = wraps(original)(make(original))
    setattr(replacement, _MARK, original)
    setattr(owner, name, replacement)


def is_wrapped(owner: Any, name: str) -> bool:
    """Whether this package wrapped it."""
    return hasattr(getattr(owner, name), _MARK)


def unwrap(owner: Any, name: str) -> Any:
    """Undo `wrap`, for tests. Returns the wrapper."""
    wrapper = getattr(owner, name)
    setattr(owner, name, getattr(wrapper, _MARK))
    return wrapper
