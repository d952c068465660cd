"""What is compared: NeMo-RL's metric names, their units, and how two runs are held against each other."""

from dataclasses import dataclass
from enum import StrEnum


class By(StrEnum):
    """How B is compared with A."""

    RATIO = "ratio of medians"
    DIFFERENCE = "difference of means"


@dataclass(frozen=True)
class Metric:
    """A metric of a training step; unit `1` is a number without one.

    expected: absence from both runs is worth a word.
    """

    name: str
    title: str
    unit: str
    by: By
    expected: bool = False


GENERATION = "timing/train/generation"
STEP_TIME = "timing/train/total_step_time"
REWARD = "train/reward"
MEAN_TOKENS = "train/mean_gen_tokens_per_sample"
MISMATCH = "train/token_mult_prob_error"
ACCEPTANCE_RATE = "train/vllm/spec_acceptance_rate"
ACCEPTANCE_LENGTH = "train/vllm/spec_acceptance_length"
DRAFTS = "train/vllm/spec_num_drafts"
BATCHES = "train/dynamic_sampling_num_gen_batches"
PER_TOKEN = "derived/generation_seconds_per_token"
TOKENS_PER_SECOND = "derived/tokens_per_second"
OWN = "train/efficientrollout"
BY_POSITION = (f"{OWN}/acceptance_by_position/", "train/vllm/spec_acceptance_rate-pos-")
"""Beginnings of names that end in a draft position; the second is NeMo-RL's own."""

METRICS = (
    Metric(GENERATION, "Rollout time", "s", By.RATIO, expected=True),
    Metric("timing/train/exposed_generation", "Rollout time not hidden behind training", "s", By.RATIO),
    Metric(PER_TOKEN, "Rollout time per generated token", "s", By.RATIO),
    Metric(TOKENS_PER_SECOND, "Generated tokens per second of rollout", "tokens/s", By.RATIO),
    Metric(STEP_TIME, "Step time", "s", By.RATIO, expected=True),
    Metric("timing/train/prepare_for_generation/total", "Refit and wake-up time", "s", By.RATIO),
    Metric("timing/train/weight_sync", "Weight synchronization time", "s", By.RATIO),
    Metric("timing/train/policy_training", "Training time (a control: drafting does not touch it)", "s", By.RATIO),
    Metric(MEAN_TOKENS, "Response length, mean", "tokens", By.RATIO, expected=True),
    Metric("train/max_gen_tokens_per_sample", "Response length, longest", "tokens", By.RATIO),
    Metric(REWARD, "Reward", "1", By.DIFFERENCE, expected=True),
    Metric(MISMATCH, "Mismatch of token probabilities, engine to trainer", "1", By.DIFFERENCE, expected=True),
    Metric(ACCEPTANCE_RATE, "Acceptance rate", "1", By.DIFFERENCE, expected=True),
    Metric(ACCEPTANCE_LENGTH, "Acceptance length τ", "tokens", By.DIFFERENCE, expected=True),
    Metric(f"{OWN}/speculating_fraction", "Speculating fraction", "1", By.DIFFERENCE),
    Metric(f"{OWN}/draft_length_mean", "Mean draft length γ", "tokens", By.DIFFERENCE),
    Metric(f"{OWN}/drafter_version_lag", "Drafter version lag", "refits", By.DIFFERENCE),
    Metric(f"{OWN}/predicted_speedup", "Predicted speed-up", "1", By.DIFFERENCE),
    Metric(f"{OWN}/regret_estimate", "Estimated regret", "1", By.DIFFERENCE),
    Metric(f"{OWN}/gate_switches", "Gate switches", "1", By.DIFFERENCE),
    Metric("refit/requantize_s", "Re-quantization time", "s", By.DIFFERENCE),
)


def by_position(names: set[str]) -> list[Metric]:
    """Acceptance at each draft position that a run logs, in the order of positions; under our names if it has them."""
    for start in BY_POSITION:
        places = [name.removeprefix(start) for name in names if name.startswith(start)]
        if positions := sorted(int(place) for place in places if place.isdecimal()):
            return [Metric(f"{start}{i}", f"Acceptance at position {i}", "1", By.DIFFERENCE) for i in positions]
    return []
