"""A run of this project's own job (examples/grpo_math), whose steps.jsonl is its record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..alarm import ROOM
from ..errors import UserError
from ..files import parse_json, read_json, read_text
from .run import Run, collect, flat

KIND = "run of examples/grpo_math"
FILE = "steps.jsonl"
FIELDS = {
    "reward": "train/reward",
    "rollout_seconds": "timing/train/generation",
    "train_seconds": "timing/train/policy_training",
    "refit_seconds": "timing/train/weight_sync",
    "total_seconds": "timing/train/total_step_time",
    "drafts": "train/vllm/spec_num_drafts",
    "acceptance_length": "train/vllm/spec_acceptance_length",
    "acceptance_rate": "train/vllm/spec_acceptance_rate",
    "speculating_fraction": "train/efficientrollout/speculating_fraction",
    "draft_length_mean": "train/efficientrollout/draft_length_mean",
    "drafter_version_lag": "train/efficientrollout/drafter_version_lag",
    "requantize_seconds": "refit/requantize_s",
}
"""The job's fields, and the names of the same values in NeMo-RL."""
LENGTHS = {"mean": "train/mean_gen_tokens_per_sample", "max": "train/max_gen_tokens_per_sample"}


def read(folder: Path) -> Run:
    """Read the folder of a run; a killed run may lack its last step. Raises UserError: the file and line."""
    report = folder / "report.json"
    facts = read_json(report, "run the job again") if report.exists() else {}
    settings = facts.get("settings")
    config = flat(settings) if isinstance(settings, dict) else {}
    series = collect((row["step"], _metrics(row)) for row in _rows(folder / FILE))
    return Run(str(facts.get("name") or folder.resolve().name), str(folder), KIND, config, series)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    text = read_text(file, f"expected the {FILE} of a run")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line, f"{file}:{number}", "the file is corrupt")
        except UserError:
            if number == len(lines) and not text.endswith("\n"):
                return  # the job was killed while it wrote this step
            raise
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{file}:{number} has no 'step'; expected one JSON object per training step")
        yield row


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: row.get(field) for field, name in FIELDS.items()}
    lengths, engine = row.get("response_tokens"), row.get("metrics")
    if isinstance(engine, dict):
        metrics = {f"train/{name}": value for name, value in engine.items() if name.startswith(ROOM)} | metrics
    return metrics | {name: lengths.get(key) for key, name in LENGTHS.items() if isinstance(lengths, dict)}
