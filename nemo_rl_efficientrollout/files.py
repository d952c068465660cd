"""Files that are read or written whole, or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new one. Raises OSError."""
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError: one line that ends with `advice`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; {advice}")
    return content
