"""What a process holds: counted where that can be counted, measured where it cannot."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters
from vllm.compilation.counter import compilation_counter

OURS = "nemo_rl_efficientrollout"


class Held(NamedTuple):
    """By one process at one moment."""

    memory: int
    """Bytes that are resident and back no file; what malloc keeps in reserve was given back before."""
    blocks: int
    """Of Python's allocator: nearly one per Python object."""
    tensors: int
    tensor_bytes: int
    """Of their storages, each counted once."""
    files: int
    """Open file descriptors."""
    threads: int
    graphs: int
    """Compiled or captured, by torch and by vLLM."""
    entries: int
    """In this package's own lists, dicts, queues, sets and arrays."""


def held(own: Iterable[Any]) -> Held:
    """By this process now; `own` are this package's objects that live as long as the engine."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    counted = len(tensors), sum(storages.values())
    del tensors, storages
    entries = _entries(own)
    ctypes.CDLL(None).malloc_trim(0)
    memory, files, threads = of_process("self")
    return Held(memory, sys.getallocatedblocks(), *counted, files, threads, _graphs(), entries)


def of_process(name: int | str) -> tuple[int, int, int]:
    """Anonymous resident bytes, open file descriptors and threads of a process by its id, as Linux tells them."""
    lines = Path(f"/proc/{name}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return 1024 * int(status["RssAnon"].split()[0]), len(os.listdir(f"/proc/{name}/fd")), int(status["Threads"])


def _graphs() -> int:
    return counters["stats"]["unique_graphs"] + sum(
        value for name, value in vars(compilation_counter).items() if name.startswith("num_")
    )


def _entries(roots: Iterable[Any]) -> int:
    """Lengths of all containers that this package's objects hold, directly or through each other."""
    seen: set[int] = set()
    waiting, entries = list(roots), 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            entries += len(thing)
            waiting += thing.values()
        elif hasattr(thing, "nbytes"):  # an array: its length is what could grow
            entries += len(thing) if getattr(thing, "ndim", 0) else 0
        elif hasattr(thing, "__len__") and hasattr(thing, "__iter__") and not isinstance(thing, str | bytes):
            entries += len(thing)
            waiting += list(thing)
        elif type(thing).__module__.startswith(OURS):
            slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
            waiting += [getattr(thing, name) for name in slots if hasattr(thing, name)]
            waiting += vars(thing).values() if hasattr(thing, "__dict__") else ()
    return entries
