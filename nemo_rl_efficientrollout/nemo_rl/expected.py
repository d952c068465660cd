"""Whether this NeMo-RL has the functions that are called, overridden or replaced here."""

import inspect
from typing import Any

from ..errors import UnsupportedError


def expect_parameters(owner: Any, name: str, parameters: str, cure: str) -> None:
    """Raises UnsupportedError unless `owner.name` is a function that takes these `parameters`, among others.

    Args:
        parameters: their names, separated by spaces.
        cure: what to do where it is not.
    """
    function = getattr(owner, name, None)
    problem = "" if callable(function) else "does not exist"
    if callable(function):
        missing = [word for word in parameters.split() if word not in inspect.signature(function).parameters]
        problem = f"does not take {', '.join(missing)}" if missing else ""
    if problem:
        raise UnsupportedError(
            f"'{owner.__name__}.{name}' of this NeMo-RL {problem}: it is not the release that this package was proven"
            f" on; {cure}"
        )
