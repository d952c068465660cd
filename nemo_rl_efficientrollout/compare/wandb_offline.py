"""An offline W&B run, read by W&B's own inspector: the format of its files is W&B's business."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError
from .run import Run, collect, flat

KIND = "offline W&B run"


def find(path: Path) -> list[Path]:
    """Files of W&B runs at or below `path`. The link `latest-run` leads to one that is found anyway."""
    if path.is_file():
        return [path] if path.suffix == ".wandb" else []
    return sorted({file.resolve(): file for file in sorted(path.rglob("*.wandb"))}.values())


def read(file: Path) -> Run:
    """Read a `.wandb` file; a killed run lacks its last steps. Raises UserError: no W&B here, or a corrupt file."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"{file} is a W&B run, and wandb is not installed: pip install 'wandb>=0.31'")
    records = map(json.loads, _inspect(file).splitlines())
    rows = [record["history"] for record in records if record["type"] == "history"]
    series = collect((_step(row), row["item"]) for row in rows)
    facts: dict[str, Any] = json.loads(_inspect(file, "--summary"))
    name = facts.get("name") or facts.get("run_id") or file.stem
    return Run(name, str(file.parent), KIND, flat(facts.get("config") or {}), series)


def _step(row: dict[str, Any]) -> int:
    return int(row["item"].get("_step", row.get("step", {}).get("num", 0)))


def _inspect(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode:
        raise UserError(f"{file} cannot be read ({said}); it needs wandb 0.31 or newer and a whole file")
    # A run that was killed ends early, which is no harm; corruption hides an unknown number of steps.
    if "corrupt" in done.stderr:
        raise UserError(f"{file} is corrupt ({said}); copy it again from where it was written")
    return done.stdout
