"""Training runs with NeMo-RL's metric names and known differences, as rows and as files of W&B and TensorBoard."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_rl_efficientrollout.compare.run import Run, collect, flat

Rows = list[tuple[int, dict[str, float]]]
SECONDS_PER_TOKEN = 0.05  # of the mean response
CONFIG: dict[str, Any] = {
    "grpo": {"num_prompts_per_step": 4, "num_generations_per_prompt": 8},
    "policy": {"model_name": "tiny", "generation": {"backend": "vllm"}},
}
ACCELERATED: dict[str, Any] = {
    "grpo": CONFIG["grpo"],
    "policy": {"model_name": "tiny", "generation": {"backend": "vllm", "efficientrollout": {"strict": False}}},
}
SPECULATION = {
    "train/vllm/spec_acceptance_rate": 0.9,
    "train/vllm/spec_acceptance_length": 3.5,
    "train/vllm/spec_num_drafts": 100.0,
    "train/efficientrollout/speculating_fraction": 0.6,
    "train/efficientrollout/draft_length_mean": 3.0,
    "train/efficientrollout/drafter_version_lag": 0.0,
    "train/efficientrollout/acceptance_by_position/1": 0.95,
    "train/efficientrollout/acceptance_by_position/2": 0.9,
    "refit/requantize_s": 0.4,
}
PLAIN = {
    # What NeMo-RL logs where nothing is drafted.
    "train/vllm/spec_acceptance_rate": 0.0,
    "train/vllm/spec_acceptance_length": 1.0,
    "train/vllm/spec_num_drafts": 0.0,
}


def history(
    steps: int = 30,
    *,
    speed: float = 1.0,
    length: float = 1.0,
    reward: float = 0.0,
    speculating: bool = False,
    seed: int = 0,
    noise: float = 0.03,
) -> Rows:
    """Rows of a run: `speed` times SECONDS_PER_TOKEN, `length` times 500 tokens, a reward higher by `reward`.

    Its first step takes five times as long, as first steps do.
    """
    random = np.random.default_rng(seed)
    rows: Rows = []
    for step in range(1, steps + 1):
        tokens = 500 * length * np.exp(random.normal(0, noise))
        generation = SECONDS_PER_TOKEN * speed * tokens * np.exp(random.normal(0, noise)) * (5 if step == 1 else 1)
        rows.append(
            (
                step,
                {
                    "timing/train/generation": generation,
                    "timing/train/total_step_time": generation + 10,
                    "timing/train/prepare_for_generation/total": 2.0,
                    "train/mean_gen_tokens_per_sample": tokens,
                    "train/reward": 0.5 + reward + random.normal(0, noise),
                    "train/token_mult_prob_error": 1.02 + abs(random.normal(0, 0.1 * noise)),
                    **(SPECULATION if speculating else PLAIN),
                },
            )
        )
    return rows


def run(rows: Rows, config: Mapping[str, Any] = CONFIG, name: str = "run") -> Run:
    """A run as a reader would give it."""
    return Run(name, name, "test", flat(config), collect(rows))


def nested(metrics: Mapping[str, float]) -> dict[str, Any]:
    """`{"train/reward": 1}` as `{"train": {"reward": 1}}`."""
    tree: dict[str, Any] = {}
    for name, value in metrics.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def write_wandb(folder: Path, rows: Iterable[tuple[int, Mapping[str, Any]]], config: Mapping[str, Any]) -> Path:
    """An offline W&B run, logged as NeMo-RL logs: settings after the start, several calls for one step."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(x_disable_stats=True, console="off", silent=True)
    logger = wandb.init(dir=str(folder), mode="offline", project="tests", name=folder.name, settings=quiet)
    logger.config.update(dict(config), allow_val_change=True)
    logger.log({"timing/setup/total": 3.0}, step=0)
    for step, metrics in rows:
        names = list(metrics)
        logger.log({name: metrics[name] for name in names[:1]}, step=step)
        logger.log({name: metrics[name] for name in names[1:]}, step=step, commit=True)
    logger.finish()
    return folder


def write_tensorboard(folder: Path, rows: Rows, config: Mapping[str, Any]) -> Path:
    """Event files as NeMo-RL writes them: settings as hyperparameters, in a folder within."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(folder))
    writer.add_hparams(flat(config), {})
    for step, metrics in rows:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
    writer.close()
    return folder
