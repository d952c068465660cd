"""Objects that take turns: each in a process of its own, or all in this one.

Engines with different environments, or of more memory than one allocator should hold, need a process each. Only one is
called at a time, so that the others leave the device alone.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

Call = Callable[..., Any]
"""`call(method, *arguments, **named)`: calls the object's method and returns what it returns."""
GRACE_S = 20.0
"""A process that was told to end, and has not after so many seconds, is killed."""


class Player(NamedTuple):
    """How to make one of the objects; everything must be picklable."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]


@contextmanager
def players(wanted: Mapping[str, Player], own_process: bool) -> Iterator[dict[str, Call]]:
    """Make the objects one after the other; they end with the block. Raises RuntimeError where one raises."""
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        for name, player in wanted.items():
            calls[name] = stack.enter_context(_process(name, player)) if own_process else _here(player)
        yield calls


def _here(player: Player) -> Call:
    made = player.make(*player.arguments)
    return lambda method, *arguments, **named: getattr(made, method)(*arguments, **named)


@contextmanager
def _process(name: str, player: Player) -> Iterator[Call]:
    spawn = multiprocessing.get_context("spawn")  # a forked process could not use the GPU
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, player), name=name, daemon=False)
    process.start()
    theirs.close()

    def answer() -> Any:
        try:
            good, value = ours.recv()
        except EOFError:
            raise RuntimeError(f"{name}: its process ended") from None
        if not good:
            raise RuntimeError(f"{name}: {value}")
        return value

    def call(method: str, *arguments: Any, **named: Any) -> Any:
        ours.send((method, arguments, named))
        return answer()

    try:
        answer()  # made
        yield call
    finally:
        ours.close()  # which ends it, unless it is busy
        process.join(0 if process.exitcode is None and _interrupted() else GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _interrupted() -> bool:
    """Whether this runs because of Ctrl-C, on which nobody wants to wait."""
    import sys

    return isinstance(sys.exc_info()[1], KeyboardInterrupt)


def _serve(connection: Any, player: Player) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        made = player.make(*player.arguments)
        connection.send((True, None))
        while True:
            try:
                method, arguments, named = connection.recv()
            except EOFError:
                break
            connection.send((True, getattr(made, method)(*arguments, **named)))
    except Exception:  # noqa: BLE001 - told to the parent, which raises
        connection.send((False, traceback.format_exc()))
    os._exit(0)  # engines' threads would keep it
