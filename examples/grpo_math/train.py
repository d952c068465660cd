"""The training loop: TRL's GRPOTrainer, whose rollouts come from our engine.

TRL would run its own vLLM, which cannot serve CPU machines and knows nothing of the drafter. Its `rollout_func`
leaves generation to us and keeps rewards, advantages, loss and optimizer; it needs neither `use_vllm` nor
sampled log-probabilities, since every batch is trained on exactly once, by the policy that wrote it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from nemo_rl_efficientrollout.clock import Clock

from .engine import RolloutEngine
from .options import Options
from .prompts import encode
from .record import Step, rollout_fields
from .reward import reward


class StepClock(TrainerCallback):
    """Collects one `Step` from the trainer's events: begin, rollout, rewards, optimizer, refit, log."""

    def __init__(self, engine: RolloutEngine, policy: PreTrainedModel, on_step: Callable[[Step], None]):
        self.engine, self.policy, self.on_step = engine, policy, on_step
        self.now = Clock()
        self.started = 0.0
        self.fields: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = self.now()
        self.fields = {"reward_seconds": 0.0}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trained = self.now() - self.started
        refit_seconds = self.engine.refit(self.policy)
        stats = self.engine.stats()
        others = self.fields["rollout_seconds"] + self.fields["reward_seconds"]
        self.fields |= {
            "step": state.global_step,
            "train_seconds": trained - others,
            "refit_seconds": refit_seconds,
            "total_seconds": self.now() - self.started,
            "policy_version": stats["policy_version"],
            "drafter_version": stats["drafter_version"],
            "drafter_version_lag": stats["policy_version"] - stats["drafter_version"],
            "requantize_seconds": stats["requantize_seconds"],
        }

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "reward" not in logs:  # the summary after the last step
            return
        measured: dict[str, Any] = {key: logs.get(key) for key in ("reward", "loss", "entropy", "grad_norm")}
        self.on_step(Step(**self.fields, **measured))


def train(
    options: Options,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    answers: list[str],
    engine: RolloutEngine,
    learning_rate: float,
    on_step: Callable[[Step], None],
) -> None:
    """Train `policy` in place for `options.steps` steps; the engine follows after each one."""
    clock = StepClock(engine, policy, on_step)

    def rollouts(batch: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """One response per entry of `batch`, in which TRL repeats each prompt `group` times."""
        prompt_ids = [encode(text, tokenizer) for text in batch]
        rollout = engine.rollout(prompt_ids)
        clock.fields |= rollout_fields(rollout)
        return {"prompt_ids": prompt_ids, "completion_ids": rollout.responses, "logprobs": None}

    def math_reward(completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
        start = clock.now()
        rewards: list[float | None] = [reward(text, gold) for text, gold in zip(completions, answer, strict=True)]
        clock.fields["reward_seconds"] += clock.now() - start
        return rewards

    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=math_reward,
        args=trainer_config(options, options.run_dir, learning_rate),
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": answers}),
        processing_class=tokenizer,
        callbacks=[clock],
        rollout_func=rollouts,
    )
    trainer.remove_callback(PrinterCallback)  # our own progress lines replace it
    trainer.train()


def trainer_config(options: Options, output_dir: Path, learning_rate: float) -> GRPOConfig:
    """One optimizer step per batch of prompts; one prompt's group per backward pass bounds memory."""
    on_gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(output_dir),
        max_steps=options.steps,
        per_device_train_batch_size=options.group,
        gradient_accumulation_steps=options.prompts_per_step,
        num_generations=options.group,
        max_completion_length=options.max_new_tokens,
        temperature=options.temperature,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        beta=0.0,
        shuffle_dataset=options.problems is not None,  # the built-in order is already even
        seed=options.seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
    )
