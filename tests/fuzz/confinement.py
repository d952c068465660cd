"""What a block of code writes, and that it writes below one folder alone: by the interpreter's own audit events."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {
    "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.mkfifo": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""Events that change the file system, and how many of their first arguments are paths."""
FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    *("socket.bind", "socket.connect", "pickle.find_class", "marshal.load"),
)
"""What no input may lead to. `exec` and `compile` are not here: imports raise them."""


class Escaped(BaseException):
    """Something was about to be done outside; no `except Exception` hides it, and it was not done."""


class _Watch:
    """The one audit hook of this process: hooks cannot be removed."""

    folder: str | None = None
    installed = False
    outside: list[str]

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self._refuse(f"{event} {arguments!r:.200}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._check(event, arguments[0])
        for path in arguments[: PATHS.get(event, 0)]:
            self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:  # an open file
            return
        text = os.fsdecode(path)
        inside = os.path.realpath(text)
        assert self.folder is not None
        if inside == self.folder or inside.startswith(self.folder + os.sep) or text == os.devnull or _is_cache(text):
            return
        self._refuse(f"{event} {text!r:.200}")

    def _refuse(self, what: str) -> None:
        self.outside.append(what)
        raise Escaped(what)


def _is_cache(path: str) -> bool:
    """The interpreter's own: a module that is imported for the first time is compiled."""
    return f"{os.sep}__pycache__{os.sep}" in path or path.endswith("__pycache__")


_WATCH = _Watch()


@contextmanager
def confined(folder: Path) -> Iterator[list[str]]:
    """While the block runs, refuse every write outside `folder`, every process, every socket; yields what was refused.

    What was refused is raised as `Escaped`, too, inside the code that tried.
    """
    if not _WATCH.installed:
        sys.addaudithook(_WATCH.hook)
        _WATCH.installed = True
    _WATCH.outside = []
    _WATCH.folder = os.path.realpath(folder)
    try:
        yield _WATCH.outside
    finally:
        _WATCH.folder = None
