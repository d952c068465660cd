"""Errors that a user causes and can mend: one clear line each, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LONGEST_LINE = 1200
"""Characters of a message: what fits on a screen, whatever it quotes."""
LONGEST_VALUE = 200
"""Characters of a value within it."""
LONGEST_WORD = 100
"""Characters of what may be a misspelt word; comparing takes time by the square of it."""


class UserError(Exception):
    """Bad input. `str(error)` is one line: what is wrong, what was expected, what to do."""

    exit_code = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class SettingsError(UserError):
    """A setting that does not exist, or has a value that is not allowed."""


class UnsupportedError(UserError):
    """A vLLM version, runner, model or machine on which self-speculation cannot be built."""


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """The text with line breaks and other control characters escaped, and without its middle where it is too long."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 3 :]}"
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return one_line("".join(escaped), longest)


def shown(value: Any) -> str:
    """A value of the user's as a message quotes it."""
    try:
        return one_line(repr(value), LONGEST_VALUE)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return f"{type(value).__name__} too large to show"


def nearest(word: str, known: Iterable[Any]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or an empty string."""
    if len(word) > LONGEST_WORD:
        return ""
    words = [name for name in known if isinstance(name, str) and len(name) <= LONGEST_WORD]
    close = get_close_matches(word, words, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
