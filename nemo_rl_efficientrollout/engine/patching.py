"""Replace an attribute of vLLM by a wrapper around it, once."""

from collections.abc import Callable
from typing import Any

_MARK = "_efficientrollout_original"


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Set `owner.name` to `make(original)`. Raises RuntimeError if this package wrapped it before."""
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        raise RuntimeError(f"{getattr(owner, '__name__', owner)}.{name} is patched already")
    replacement = make(original)
    setattr(replacement, _MARK, original)
    setattr(owner, name, replacement)


def unwrap(owner: Any, name: str) -> Any:
    """Undo `wrap`, for tests. Returns the wrapper."""
    wrapper = getattr(owner, name)
    setattr(owner, name, getattr(wrapper, _MARK))
    return wrapper
