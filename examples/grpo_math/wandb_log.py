"""The run in Weights & Biases, under NeMo-RL's metric names. Our own `steps.jsonl` is the record; this is a view."""

import os
from typing import Any

import plotly.graph_objects as go
import wandb

from nemo_rl_efficientrollout.alarm import ROOM, Alarm
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.report.html import figures

from .options import Options
from .record import Step

PROJECT = "efficientrollout-grpo-math"


def start(options: Options) -> "wandb.Run":
    """A new W&B run below the run's folder; offline unless an API key or WANDB_MODE is set.

    Raises:
        UserError: W&B refuses, for instance a wrong key.
    """
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if "WANDB_API_KEY" in os.environ else "offline")
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=options.name,
            dir=options.run_dir,
            mode=mode,
            config=options.as_dict(),
            settings=wandb.Settings(x_disable_stats=True, console="off", silent=True),
        )
    except wandb.Error as error:
        raise UserError(f"W&B does not start: {error}; set WANDB_MODE=offline to do without it") from error


def metrics(step: Step) -> dict[str, float]:
    """One step under NeMo-RL's names; what is undefined is left out."""
    values = {
        "train/reward": step.reward,
        "train/loss": step.loss,
        "train/grad_norm": step.grad_norm,
        "train/approx_entropy": step.entropy,
        "train/mean_gen_tokens_per_sample": step.response_tokens["mean"],
        "timing/train/generation": step.rollout_seconds,
        "timing/train/reward_calculation": step.reward_seconds,
        "timing/train/policy_training": step.train_seconds,
        "timing/train/weight_sync": step.refit_seconds,
        "timing/train/total_step_time": step.total_seconds,
        "train/vllm/spec_num_drafts": step.drafts,
        "train/vllm/spec_num_draft_tokens": step.drafted_tokens,
        "train/vllm/spec_num_accepted_tokens": step.accepted_tokens,
        "train/vllm/spec_acceptance_length": step.acceptance_length,
        "train/vllm/spec_acceptance_rate": step.acceptance_rate,
        **{f"train/{name}": value for name, value in step.metrics.items() if name.startswith(ROOM)},
        "train/efficientrollout/speculating_fraction": step.speculating_fraction,
        "train/efficientrollout/draft_length_mean": step.draft_length_mean,
        "train/efficientrollout/drafter_version_lag": step.drafter_version_lag,
        "refit/requantize_s": step.requantize_seconds,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def report_figures(report: dict[str, Any]) -> dict[str, wandb.Plotly]:
    """The figures of the run's report.html under `report/`; of rollouts the newest one's."""
    return {
        f"report/{name}": wandb.Plotly(go.Figure(figure).update_layout(template="none"))
        for name, figure in figures(report).items()
    }


def raise_alarm(board: "wandb.Run", alarm: Alarm, step: int) -> None:
    """An alert, and a line of the summary that the run's page shows without looking for it."""
    board.alert(title=f"EfficientRollout: {alarm.name}", text=f"step {step}: {alarm.text}", level="WARN")
    board.summary[f"alarm/{alarm.name}"] = f"since step {step}: {alarm.text}"
