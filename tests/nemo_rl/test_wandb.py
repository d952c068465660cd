# pyright: reportMissingImports=false
"""Every metric through NeMo-RL's own logger into an offline W&B run, read back from its files."""

import json
import subprocess
import sys
from typing import Any

import pytest

from nemo_rl_efficientrollout.alarm import PATIENCE
from nemo_rl_efficientrollout.engine.totals import PREFIX
from nemo_rl_efficientrollout.nemo_rl import patches
from nemo_rl_efficientrollout.nemo_rl.metrics import ACCEPTED
from tests.nemo_rl.source import require

require("nemo_rl.utils.logger", "nemo_rl.models.generation.vllm.vllm_generation", "wandb")

STEPS = PATIENCE + 1
ACCEPTED_RATE = 0.125


def counters(step: int, acceptance: float) -> dict[Any, float]:
    """Of one engine after `step` rollouts."""
    names = ("decode_steps", "speculating_steps", "gate_switches", "drafted_at_1", "drafted_at_2")
    times = ("gated_microseconds", "promised_microseconds", "ideal_microseconds")
    times += ("measured_microseconds", "predicted_microseconds")
    gauges = {"engines": 1, "policy_version": step, "drafter_version": step, "requantize_microseconds": 1.5e6}
    ours = dict.fromkeys((*names, *times), 100.0 * step) | gauges | {"break_even_millionths": 5e5}
    return {PREFIX + name: float(value) for name, value in ours.items()} | {
        "vllm:spec_decode_num_drafts": 100.0 * step,
        "vllm:spec_decode_num_draft_tokens": 200.0 * step,
        "vllm:spec_decode_num_accepted_tokens": 200.0 * step * acceptance,
        (ACCEPTED, 1): 100.0 * step * acceptance,
        (ACCEPTED, 2): 100.0 * step * acceptance,
    }


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What W&B wrote about a run whose acceptance has collapsed."""
    import wandb
    from nemo_rl.models.generation.vllm import vllm_generation
    from nemo_rl.utils.logger import Logger

    folder = tmp_path_factory.mktemp("logs")
    patches.install({"policy": {"generation": {"efficientrollout": {"refit": {"quantize_on": "engine"}}}}})
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_SILENT", "true")
    logger = Logger(
        {  # type: ignore[arg-type]
            "log_dir": str(folder),
            "wandb_enabled": True,
            "wandb": {"project": "p", "name": "n"},
            "swanlab_enabled": False,
            "tensorboard_enabled": False,
            "mlflow_enabled": False,
            "monitor_gpus": False,
        }
    )
    for step in range(STEPS):
        before, after = counters(step, ACCEPTED_RATE), counters(step + 1, ACCEPTED_RATE)
        metrics = vllm_generation.compute_spec_decode_metrics(before, after) | {"reward": 0.5}
        logger.log_metrics(metrics, step + 1, prefix="train")
        logger.log_metrics({"generation": 2.0}, step + 1, prefix="timing/train", step_finished=True)
    wandb.finish()
    patch.undo()
    (run,) = folder.glob("wandb/wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf for name, item in value.items() for key, leaf in flat(item, f"{prefix}/{name}".strip("/")).items()
    }


def test_every_metric_arrives_at_every_step(records: list[dict[str, Any]]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["type"] == "history":
            row = flat(record["history"]["item"])
            rows.setdefault(str(row["_step"]), {}).update(row)
    assert len(rows) == STEPS
    for row in rows.values():
        ours = {name: value for name, value in row.items() if "efficientrollout" in name or name.startswith("refit")}
        assert ours == pytest.approx(
            {
                "train/efficientrollout/speculating_fraction": 1.0,
                "train/efficientrollout/draft_length_mean": 2.0,
                "train/efficientrollout/acceptance_by_position/1": ACCEPTED_RATE,
                "train/efficientrollout/acceptance_by_position/2": ACCEPTED_RATE,
                "train/efficientrollout/drafter_version_lag": 0.0,
                "train/efficientrollout/engines_behind": 0.0,
                "train/efficientrollout/predicted_speedup": 1.0,
                "train/efficientrollout/regret_estimate": 0.0,
                "train/efficientrollout/gate_switches": 100.0,
                "train/efficientrollout/engines_without_cost_model": 0.0,
                "train/efficientrollout/measured_over_predicted": 1.0,
                "train/efficientrollout/alarms": float(int(row["_step"]) >= PATIENCE),
                "train/efficientrollout/break_even": 0.5,
                "refit/requantize_s": 1.5,
            }
        )
        assert row["train/vllm/spec_acceptance_rate"] == ACCEPTED_RATE
        assert row["train/vllm/spec_num_drafts"] == 100.0
        assert row["timing/train/generation"] == 2.0
        assert row["train/reward"] == 0.5


def test_the_alarm_is_a_wandb_alert(records: list[dict[str, Any]]) -> None:
    (alert,) = [record for record in records if record["type"] == "alert"]
    assert "12.5% of drafted tokens were accepted" in json.dumps(alert)
