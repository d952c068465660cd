"""Math problems with a known answer, read from a JSONL file.

Two line forms are understood: `{"problem": ..., "answer": ...}` and GSM8K's
`{"question": ..., "answer": "... #### 42"}`.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.errors import UserError, shown
from nemo_rl_efficientrollout.files import parse_json, read_bytes, write_whole

from .reward import is_mathematics

_FORMS = '{"problem": ..., "answer": ...} or {"question": ..., "answer": "... #### 42"}'
MOST_BYTES = 2**30
LONGEST_ANSWER = 300
"""Characters: math-verify takes seconds, and then gives up, over a text that is none."""
_PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Problem:
    """One problem and its answer, with the place it came from for error messages."""

    text: str
    answer: str
    source: str


def read_problems(path: Path) -> list[Problem]:
    """Every problem of a JSONL file; blank lines are skipped.

    Raises:
        UserError: the file cannot be read or is empty, or a line is no problem; names file and line.
    """
    advice = "give a JSONL file with --problems, or leave it out for built-in arithmetic"
    lines = read_bytes(path, advice, MOST_BYTES).splitlines()
    problems = [_read_line(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise UserError(f"problem file '{path}' is empty: expected one JSON object per line, {_FORMS}")
    return problems


def write_problems(path: Path, problems: list[Problem]) -> None:
    """Write problems in the form that `read_problems` reads."""
    lines = [json.dumps({"problem": p.text, "answer": p.answer}) for p in problems]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _read_line(line: bytes, source: str) -> Problem:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{source}: not UTF-8 text; save the file as UTF-8") from None
    row = parse_json(text, source, f"expected {_FORMS}")
    if not isinstance(row, dict):
        raise UserError(f"{source}: expected a JSON object {_FORMS}, got {_kind(row)}")
    text_key = "problem" if "problem" in row else "question"
    for key in (text_key, "answer"):
        if key not in row:
            wanted = "'problem' (or 'question')" if key == "question" else f"'{key}'"
            raise UserError(f"{source}: key {wanted} is missing; expected {_FORMS}")
    return Problem(_text(row[text_key], text_key, source), _answer(row, text_key, source), source)


def _text(value: Any, key: str, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{source}: '{key}' must be a non-empty text, got {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{source}: '{key}' holds half of a surrogate pair; use whole characters") from None
    return value.strip()


def _answer(row: dict[str, Any], text_key: str, source: str) -> str:
    value = row["answer"]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    text = _text(value, "answer", source)
    if text_key == "question":
        _, marker, text = text.rpartition("####")
        if not marker:
            raise UserError(f"{source}: a GSM8K 'answer' ends with '#### 42', but there is no '####' in it")
        text = text.strip().replace(",", "")
    if len(text) > LONGEST_ANSWER:
        raise UserError(f"{source}: 'answer' has {len(text)} characters; give one of at most {LONGEST_ANSWER}")
    if not _PLAIN_NUMBER.fullmatch(text) and not is_mathematics(text):
        raise UserError(f"{source}: 'answer' is no number or LaTeX formula that math-verify can read: {text[:60]!r}")
    return text


def _kind(value: Any) -> str:
    """What a JSON value is, short enough for one line."""
    return f"{type(value).__name__} {shown(value)}"
