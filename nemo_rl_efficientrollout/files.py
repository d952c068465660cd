"""Files that are read or written whole, or not at all. Whoever wrote a file that is read need not be trusted."""

import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError

MOST_BYTES = 2**27
"""Of a file that is read; a device without an end has more."""
DEEPEST = 64
"""Levels of JSON: whoever walks a document by recursion has room."""
MOST_DIGITS = 300
"""Of a whole number in JSON: any is a finite float."""


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new one. Raises OSError.

    A device or a pipe is written to, not replaced: whoever names /dev/null does not want it gone.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        path.write_bytes(data)
        return
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> None:
    """Add to the end of a file, all of `data` or nothing: a full disk would take a part. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            file.truncate(before)
            raise


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written for where it would lie, before there is any work. Raises UserError."""
    if os.path.isdir(path):
        raise UserError(f"cannot write {path}: it is a folder; give a file in it")
    if not os.path.isdir(path.parent):
        raise UserError(f"cannot write {path}: its folder does not exist; make it first")


def read_bytes(path: Path, advice: str, most: int = MOST_BYTES) -> bytes:
    """A file of at most so many bytes. Raises UserError: one line that ends with `advice`."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {advice}") from None
    except ValueError as error:  # a path that no file system knows
        raise UserError(f"cannot read {path}: {error}; {advice}") from None
    if len(data) > most:
        raise UserError(f"{path} has more than {most >> 20} MiB; {advice}")
    return data


def read_text(path: Path, advice: str) -> str:
    """The same as text in UTF-8. Raises UserError."""
    try:
        return read_bytes(path, advice).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; {advice}") from None


def parse_json(text: str | bytes, source: str, advice: str) -> Any:
    """A JSON value of at most `DEEPEST` levels, without whole numbers that are no finite floats. Raises UserError."""
    try:
        value = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON ({error}); {advice}") from None
    if is_deeper(value, DEEPEST):
        raise UserError(f"{source} is nested more than {DEEPEST} levels deep; {advice}")
    return value


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError: one line that ends with `advice`."""
    content = parse_json(read_text(path, advice), str(path), advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; {advice}")
    return content


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value has more than so many lists and objects within each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        nodes = (item for node in level for item in (node.values() if isinstance(node, dict) else node))
        level = [item for item in nodes if isinstance(item, dict | list)]
        if not level:
            return False
    return bool(level)


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)
