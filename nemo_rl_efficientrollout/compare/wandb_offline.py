"""An offline W&B run, read by W&B's own inspector: the format of its files is W&B's business."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, shown
from ..files import parse_json
from .run import Run, collect, flat

KIND = "offline W&B run"
ADVICE = "it needs wandb 0.31 or newer and a whole file"


def find(path: Path) -> list[Path]:
    """Files of W&B runs at or below `path`. The link `latest-run` leads to one that is found anyway."""
    if path.is_file():
        return [path] if path.suffix == ".wandb" else []
    return sorted({file.resolve(): file for file in sorted(path.rglob("*.wandb"))}.values())


def read(file: Path) -> Run:
    """Read a `.wandb` file; a killed run lacks its last steps. Raises UserError: no W&B here, or a corrupt file."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"{file} is a W&B run, and wandb is not installed: pip install 'wandb>=0.31'")
    series = collect(_history(file))
    facts = parse_json(_inspect(file, "--summary"), str(file), ADVICE)
    if not isinstance(facts, dict):
        raise UserError(f"{file} has no summary; {ADVICE}")
    config = facts.get("config")
    name = facts.get("name") or facts.get("run_id") or file.stem
    return Run(str(name), str(file.parent), KIND, flat(config) if isinstance(config, dict) else {}, series)


def _history(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Step and metrics of each row; one that has another form than the inspector's is the file's fault."""
    for line in _inspect(file).splitlines():
        record = parse_json(line, str(file), ADVICE)
        try:
            if record["type"] == "history":
                row = record["history"]
                yield int(row["item"].get("_step", row.get("step", {}).get("num", 0))), dict(row["item"])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(f"{file} holds a row that is none, {shown(record)}; {ADVICE}") from None


def _inspect(file: Path, *options: str) -> str:
    # -P: a wandb.py of whoever made the current folder is not run. An absolute path is no option.
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", *options, str(file.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode:
        raise UserError(f"{file} cannot be read ({said}); {ADVICE}")
    # A run that was killed ends early, which is no harm; corruption hides an unknown number of steps.
    if "corrupt" in done.stderr:
        raise UserError(f"{file} is corrupt ({said}); copy it again from where it was written")
    return done.stdout
