"""Errors that a user causes and can mend: one clear line each, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. `str(error)` is one line: what is wrong, what was expected, what to do."""

    exit_code = 2


class SettingsError(UserError):
    """A setting that does not exist, or has a value that is not allowed."""


class UnsupportedError(UserError):
    """A vLLM version, runner, model or machine on which self-speculation cannot be built."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
