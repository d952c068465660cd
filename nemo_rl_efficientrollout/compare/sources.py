"""Find out what a run was recorded with, and read it."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from . import job_steps, tensorboard_events, wandb_offline, wandb_online
from .run import Run

ONLINE = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")
EXPECTED = (
    "a folder with an offline W&B run, TensorBoard event files or the steps.jsonl of this project's job, "
    "or entity/project/run_id of a run at W&B"
)
NAMED = 3  # places that an error about several runs names


def read_run(source: str) -> Run:
    """Read a run from `source`.

    Args:
        source: a folder or file, or `entity/project/run_id` of a run at W&B.

    Raises:
        UserError: nothing or more than one run is found, or it cannot be read.
    """
    path = Path(source)
    if not os.path.exists(path):
        # `logs/exp_001/tensorboard` looks like a run at W&B: it is one only if its first part is no folder here.
        if ONLINE.fullmatch(source) and not os.path.exists(source.split("/")[0]):
            return wandb_online.read(source)
        raise UserError(f"{source}: no such folder; give {EXPECTED}")
    if path.name == job_steps.FILE or (path / job_steps.FILE).is_file():
        # Its W&B run, in the same folder, is a view of the same steps.
        return job_steps.read(path if path.is_dir() else path.parent)
    logs = wandb_offline.find(path)
    events = [folder for folder in tensorboard_events.find(path) if not _is_copy(folder, logs)]
    found: list[tuple[Path, Callable[[Path], Run]]] = [
        *((file, wandb_offline.read) for file in logs),
        *((folder, tensorboard_events.read) for folder in events),
    ]
    if not found:
        raise UserError(f"{source} holds no run; give {EXPECTED}")
    if len(found) > 1:
        places = [str(place) for place, _ in found]
        more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
        raise UserError(f"{source} holds {len(places)} runs; give one of {', '.join(places[:NAMED])}{more}")
    place, reader = found[0]
    return reader(place)


def _is_copy(events: Path, logs: list[Path]) -> bool:
    """NeMo-RL's `exp_001/tensorboard` repeats its `exp_001/wandb`, which has more digits and all settings."""
    beside = events.parent / "wandb"
    return events.name == "tensorboard" and any(beside in log.parents for log in logs)
