"""The device that is probed, left as it was found."""

import gc
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from ...errors import UserError


def find_device(name: str | None) -> torch.device:
    """The device of this name, with its index; raises UserError if it is not there."""
    gpus = torch.cuda.device_count()
    name = name or ("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} does not exist: give 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise UserError(f"device {name!r} is not supported: give 'cpu', 'cuda' or 'cuda:N'")
    index = device.index if device.index is not None else torch.cuda.current_device() if gpus else 0
    if index >= gpus:
        raise UserError(f"device {name!r} is not there: torch sees {gpus} GPUs")
    return torch.device("cuda", index)


def hardware_name(device: torch.device) -> str:
    """Name of a GPU, or architecture and threads of the CPU: its times depend on both."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


@contextmanager
def guest_on(device: torch.device) -> Iterator[None]:
    """Leave gradients, random state, current device and GPU memory as they were."""
    gpu = device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if gpu:
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.random.fork_rng([device.index] if gpu else []))
        try:
            yield
        finally:
            if gpu:
                gc.collect()
                torch.cuda.empty_cache()
