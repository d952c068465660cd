"""A small model that was really trained, and then really changed by reinforcement: the GRPO example's own parts.

It learns to add up lists from examples, then takes GRPO updates of the example's job, at its learning rate, with
rollouts of the real engine.
"""

import gc
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from examples.grpo_math.__main__ import ENVIRONMENT, ONE_THREAD

from .measure import set_environment
from .record import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from examples.grpo_math.engine import RolloutEngine
    from examples.grpo_math.problems import Problem
    from examples.grpo_math.record import Step

MAX_NEW_TOKENS = 256
"""More than a worked answer of the longest list takes, which is about 190."""
MAX_MODEL_LEN = MAX_NEW_TOKENS + 64
SEQUENCES = 64
PROMPTS_PER_STEP, GROUP = 8, 8
USUAL, LONG = "usual", "long"
LISTS = {LONG: (16, 24), USUAL: (6, 10)}
"""Fewest and most numbers in the lists that acceptance is measured on."""
MEASURED_SEED = 1_000_003
"""Of those lists: training draws from other seeds."""


@dataclass
class Trained:
    """A model before and after reinforcement."""

    directory: Path
    """Checkpoint before reinforcement, BF16."""
    policy: "PreTrainedModel"
    """After it, float32."""
    tokenizer: "PreTrainedTokenizerBase"
    warm_start_losses: list[float]
    rewards: list[float]
    """Mean of every update's rollouts."""
    entropies: list[float]
    """Nats per token, of the same."""
    movement: float
    """‖w after - w before‖ / ‖w before‖ over all weights."""
    learning_rate: float

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {
            "warm_start_losses": self.warm_start_losses,
            "rewards": self.rewards,
            "entropies": self.entropies,
            "movement": self.movement,
            "learning_rate": self.learning_rate,
            "parameters": self.policy.num_parameters(),
        }

    def sentences(self) -> list[str]:
        """What was learned, and how far reinforcement moved the weights."""
        losses, some = self.warm_start_losses, min(5, len(self.rewards))
        first, last = (mean(values[:some]) for values in (self.rewards, self.rewards[::-1]))
        calm = [mean(values[:some]) for values in (self.entropies, self.entropies[::-1])]
        return [
            f"model: {self.policy.num_parameters() / 1e6:.2f} M parameters; loss per answer token {losses[0]:.2f} at"
            f" the first of {len(losses)} supervised steps, {mean(losses[-10:]):.3f} over the last ten",
            f"{len(self.rewards)} GRPO updates of {PROMPTS_PER_STEP} × {GROUP} answers, learning rate"
            f" {self.learning_rate:g}: reward {first:.2f} in the first {some}, {last:.2f} in the last {some}; entropy"
            f" {calm[0]:.3f} and {calm[1]:.3f} nats per token; the weights moved by {self.movement:.2%} of their norm",
        ]


def set_job_environment() -> None:
    """Call before anything imports torch, vLLM or TRL."""
    set_environment()
    for key, value in (ENVIRONMENT | ONE_THREAD).items():
        os.environ.setdefault(key, value)


@contextmanager
def engine_on(
    model: Path, settings: dict[str, Any], *, dtype: str = "bfloat16", temperature: float = 1.0
) -> Iterator["RolloutEngine"]:
    """The job's rollout engine, which ends with the block; one at a time."""
    from examples.grpo_math.engine import RolloutEngine
    from nemo_rl_efficientrollout import read_settings

    engine = RolloutEngine(
        model,
        read_settings(settings),
        dtype=dtype,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=SEQUENCES,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        seed=0,
    )
    try:
        yield engine
    finally:
        engine.llm.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def lists(kind: str, count: int) -> list["Problem"]:
    """Problems of a kind, none of which was trained on but by chance."""
    from examples.grpo_math.arithmetic import Sum

    rng = random.Random(MEASURED_SEED)
    lengths = [rng.randint(*LISTS[kind]) for _ in range(count)]
    return [Sum(tuple(rng.randint(0, 9) for _ in range(n))).problem(i) for i, n in enumerate(lengths, 1)]


def train_model(directory: Path, warm_start_steps: int, updates: int, progress: Progress) -> Trained:
    """Train in `directory`: supervised, then `updates` steps of GRPO. A minute and two on two cores by default."""
    from transformers.utils import logging

    from examples.grpo_math.job import LEARNING_RATE
    from examples.grpo_math.model import load_policy
    from examples.grpo_math.warm_start import WarmStart, warm_started_model

    logging.disable_progress_bar()
    losses: list[float] = []
    with progress.phase(f"training a small model, {warm_start_steps} steps"):
        recipe = WarmStart(steps=warm_start_steps)
        model = warm_started_model(directory, recipe, lambda step, loss: losses.append(loss))
    policy, tokenizer = load_policy(model)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    rate = LEARNING_RATE["built-in"]
    with progress.phase(f"{updates} GRPO updates"):
        rewards, entropies = _reinforce(directory, model, policy, tokenizer, updates, rate)
    moved = sum(float((w.detach() - before[name]).square().sum()) for name, w in policy.named_parameters())
    norm = sum(float(weight.square().sum()) for weight in before.values())
    return Trained(model, policy, tokenizer, losses, rewards, entropies, (moved / norm) ** 0.5, rate)


def _reinforce(
    directory: Path, model: Path, policy: Any, tokenizer: Any, updates: int, rate: float
) -> tuple[list[float], list[float]]:
    """Rewards and entropies of every update."""
    settings = {"drafter": {"format": "int8"}, "gate": {"mode": "fixed", "draft_length": 3}}
    steps: list[Step] = []
    with engine_on(model, settings) as engine:
        reinforce(engine, directory, policy, tokenizer, updates, rate, steps.append)
    return [step.reward for step in steps], [step.entropy or 0.0 for step in steps]


def reinforce(
    engine: "RolloutEngine",
    directory: Path,
    policy: Any,
    tokenizer: Any,
    updates: int,
    rate: float,
    on_step: "Callable[[Step], None]",
    seed: int = 0,
) -> None:
    """The job's training loop on its own problems: `policy` and the engine's copy of it are trained in place."""
    from examples.grpo_math.arithmetic import arithmetic_problems
    from examples.grpo_math.options import Options
    from examples.grpo_math.prompts import BARE, render
    from examples.grpo_math.train import train

    options = Options(
        problems=None, model=None, prompt=None, steps=updates, prompts_per_step=PROMPTS_PER_STEP, group=GROUP,
        max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, lr=rate, dtype="bfloat16", seed=seed, name="reinforced",
        runs_dir=directory, warm_start_steps=1, compare=False, settings=engine.settings,
    )  # fmt: skip
    problems = arithmetic_problems(updates, PROMPTS_PER_STEP, options.seed)
    prompts = [render(problem, BARE, tokenizer) for problem in problems]
    train(options, policy, tokenizer, prompts, [p.answer for p in problems], engine, rate, on_step)
