"""Keeps the terminal readable: what libraries print, from C++ too, goes to a log file."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .record import writing


@dataclass(frozen=True)
class Terminal:
    """The process's own stdout and stderr."""

    out: TextIO
    err: TextIO


@contextmanager
def library_output_in(log: Path) -> Iterator[Terminal]:
    """Send file descriptors 1 and 2 to `log` while the block runs, which gets the real ones."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log.unlink(missing_ok=True)  # it could be a link
    with log.open("wb") as file, os.fdopen(saved[0], "w") as out, os.fdopen(saved[1], "w") as err:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Terminal(out, err)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                with writing(log):  # a library wrote, and to the log if no other file is named
                    raise
            error.add_note(f"What the libraries printed is in {log}")
            raise
        finally:
            try:
                with writing(log):
                    sys.stdout.flush()
                    sys.stderr.flush()
            finally:
                os.dup2(saved[0], 1)
                os.dup2(saved[1], 2)
