"""Contents of report.json: a run with everything, and one with nothing."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.gate import AutoGate, Load
from nemo_rl_efficientrollout.report.reading import TRAINING
from tests.simulated import SimulatedEngine


def empty_run() -> dict[str, Any]:
    """A run that was interrupted before its first step, with nothing optional."""
    facts: dict = {key: {} for key in ("settings", "model", "machine")}
    series: dict = {key: [] for key in TRAINING}
    return {"name": "empty", "steps": 0, "tokens": 0, **facts, **series}


@cache
def trained_gate() -> AutoGate:
    """A gate that found drafting to pay for few requests and not for many."""
    engine = SimulatedEngine(
        lambda load, length: 0.01 * max(1.0, load.batch * (length + 1) / 16),
        lambda load, length: 0.004 * max(1.0, load.batch / 16),
        alpha=0.85,
        lengths=range(5),
    )
    automatic = AutoGate(4)
    for batch in (64, 32, 8, 2, 1):
        engine.run(automatic, Load(batch, 4000.0 / batch), 100)
    return automatic


@cache
def gate() -> dict[str, Any]:
    """What that gate says of itself."""
    return {"gate": "AutoGate", "seed": "a generic guess", **trained_gate().describe()}


def rollout(points: int = 5000, step: int | None = None) -> dict[str, Any]:
    """64 requests that drain; speculation begins when 8 are left."""
    active = [max(1, 64 - 80 * i // points) for i in range(points)]
    length = [4 if a <= 8 else 0 for a in active]
    drafted = [a * g for a, g in zip(active, length, strict=True)]
    columns = {
        "seconds": [0.01 * i for i in range(points)],
        "active": active,
        "context": [100.0 + 3000.0 * i / points for i in range(points)],
        "draft_length": length,
        "asked": [*length[1:], 0],
        "drafted": drafted,
        "accepted": [d // 2 for d in drafted],
        "decode_only": [i > 0 for i in range(points)],
        "step_seconds": [0.01] * points,
        "expected_seconds": [0.01 * (1.0 + 0.2 * math.sin(i)) for i in range(points)],
        "gate": gate(),
    }
    return columns if step is None else columns | {"step": step}


def full_run(steps: int = 6, rollouts: int = 2) -> dict[str, Any]:
    """A run with every part of a report."""
    wave = [math.sin(i) for i in range(steps)]
    parts = {"plain": 20.0, "draft": 6.0, "verify": 9.0, "undivided": 0.0, "prefill": 2.0, "between": 1.0}
    return empty_run() | {
        "name": "grpo on arithmetic",
        "settings": {"format": "int4", "gate": {"policy": "auto", "floor": None}, "sizes": [1, 2]},
        "model": {"path": "example/model", "parameters": 1543714304, "dtype": "bfloat16"},
        "machine": {"gpu": "one", "memory_gib": 80},
        "steps": steps,
        "reward": [0.25 + 0.1 * w for w in wave],
        "rollout_seconds": [40 + w for w in wave],
        "train_seconds": [15 + w for w in wave],
        "refit_seconds": [2.0] * steps,
        "tokens": 1_234_567,
        "response_tokens": [{"mean": 500.0, "median": 400.0, "max": 4000}] * steps,
        "acceptance_rate": [None] + [0.8] * (steps - 1),
        "acceptance_length": [None] + [3.2] * (steps - 1),
        "speculating_fraction": [0.0] + [0.5] * (steps - 1),
        "policy_version": steps,
        "drafter_version": steps,
        "drafter_version_lag": [0] * steps,
        "requantize_seconds": [0.3] * steps,
        "seconds_spent": [parts] * steps,
        "predicted_ratio": [None] + [{"p10": 0.9, "median": 1.02, "p90": 1.2}] * (steps - 1),
        "timeline": [rollout(step=steps - rollouts + i + 1) for i in range(rollouts)],
        "rollout_ratio": {"median": 0.81, "min": 0.75, "max": 0.9, "pairs": 5},
        "alarms": [{"step": 2, "name": "low_acceptance", "text": "acceptance 0.2 is below break-even 0.4"}],
    }


def write_job(folder: Path, content: dict[str, Any]) -> Path:
    """The folder of a run of the job: report.json, and steps.jsonl with the same values."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(content))
    with (folder / "steps.jsonl").open("w") as file:
        for i in range(content["steps"]):
            lists = {key: value for key, value in content.items() if isinstance(value, list)}
            row = {key: value[i] for key, value in lists.items() if len(value) == content["steps"]}
            file.write(json.dumps(row | {"step": i + 1}) + "\n")
    return folder


def without_speculation(steps: int = 6) -> dict[str, Any]:
    """A plain run of the job: rollouts and their timeline, no draft, no gate that learns."""
    columns = rollout(300, step=steps)
    zeros = [0] * len(columns["seconds"])
    plain = {key: columns[key] for key in ("seconds", "active", "decode_only", "step_seconds", "step")}
    plain |= {"draft_length": zeros, "asked": zeros, "drafted": zeros, "accepted": zeros}
    speculation = ("acceptance_rate", "acceptance_length", "speculating_fraction", "drafter_version_lag")
    left_out = (*speculation, "requantize_seconds", "seconds_spent", "predicted_ratio", "rollout_ratio", "alarms")
    whole = {key: value for key, value in full_run(steps).items() if key not in left_out}
    return whole | {"name": "plain", "timeline": [plain | {"gate": {"gate": "FixedGate"}}]}
