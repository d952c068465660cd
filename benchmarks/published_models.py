"""What arXiv 2606.18967 v1 publishes of its three models on eight A100s: constants, workload, results.

Architecture is from the models' config.json; the fitted constants are those of `sd_toggle/configs/a100_tp1_*.json` at
0ff0bc5; times, acceptance and reductions are from the paper's main table and appendix A.
"""

from dataclasses import dataclass
from typing import Any

from nemo_rl_efficientrollout.gate.model_constants import ModelConstants
from nemo_rl_efficientrollout.simulate.roofline import Roofline, static

ENGINES, REQUESTS, SAMPLES = 8, 128, 8
"""Engines of one GPU, requests of each, samples of each prompt."""
MOST_PROMPT, MOST_RESPONSE = 1024, 8192
MEAN_RESPONSE = (620.0, 660.0)
"""Of all models."""
GPU_BYTES = 80 * 2**30
Knots = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Result:
    """One row of the main table, means over the run."""

    draft_length: float
    """Mean γ."""
    tau: float
    alpha: float
    """Chance that a draft is accepted after those before it were."""
    reduction: float
    """Of the rollout's time against plain decoding."""
    step_reduction: float


@dataclass(frozen=True)
class PublishedModel:
    """One model."""

    name: str
    architecture: ModelConstants
    roofline: Roofline
    completions: Knots | None
    """(share of responses, seconds) under plain decoding; None where not published."""
    plain_s: float
    """Rollout without speculation."""
    step_s: float
    """Training step without speculation."""
    engine_step_s: float
    """T_T of the running engine, as published beside EAGLE-3; at which load is not."""
    gpu_share: float
    """gpu_memory_utilization."""
    drafter_bytes: float
    """Resident beside the policy."""
    preparation_s: float
    """Re-quantization at each step."""
    always_on: Result
    reference: Result

    def kv_tokens(self, drafting: bool) -> int:
        """Room of the KV cache: what the weights leave of an engine's share; activations and graphs not counted."""
        room = self.gpu_share * GPU_BYTES - self.roofline.static.target_bytes - drafting * self.drafter_bytes
        return int(room / self.roofline.static.kv_bytes)

    @property
    def head_s(self) -> float:
        """Reading the 16-bit lm_head once, which the published forward times leave out."""
        return 2.0 * self.architecture.hidden * self.architecture.vocabulary / self.roofline.bandwidth

    @property
    def engine_s(self) -> float:
        """By how much a step of the running engine exceeds the forward time of one request."""
        return self.engine_step_s - self.roofline.cycle(1, float(MOST_PROMPT), 0)


def _architecture(**sizes: Any) -> ModelConstants:
    return ModelConstants.model_validate({"tp": 1, "quant_ratio": 0.25, "d_h": 128, **sizes})


def _last(seconds: float) -> tuple[float, float]:
    """The last response of a rollout: half of one is later."""
    return 1.0 - 0.5 / (ENGINES * REQUESTS), seconds


_QWEN_7B = _architecture(D=3584, D_ff=18944, L=28, n_heads=28, n_kv=4, V=152064)
_QWEN_14B = _architecture(D=5120, D_ff=13824, L=48, n_heads=40, n_kv=8, V=152064)
_LLAMA_8B = _architecture(D=4096, D_ff=14336, L=32, n_heads=32, n_kv=8, V=128256)

MODELS = (
    PublishedModel(
        "Qwen2.5-7B",
        _QWEN_7B,
        Roofline(static(_QWEN_7B), 1.617462634e12, 26205, 1.334, 39.0, 69.0, 152.3),
        ((0.5, 13.0), (0.9, 22.0), (0.99, 30.0), _last(88.0)),
        plain_s=82.4,
        step_s=132.6,
        engine_step_s=0.01045,
        gpu_share=0.6,
        drafter_bytes=3.39e9,
        preparation_s=1.3,
        always_on=Result(7.0, 7.5, 0.982, 0.082, 0.037),
        reference=Result(8.2, 8.6, 0.982, 0.196, 0.127),
    ),
    PublishedModel(
        "Qwen2.5-14B",
        _QWEN_14B,
        Roofline(static(_QWEN_14B), 1.564389352e12, 48070, 1.271, 50.0, 153.9, 232.3),
        None,
        plain_s=126.6,
        step_s=221.1,
        engine_step_s=0.02031,
        gpu_share=0.7,
        drafter_bytes=6.86e9,
        preparation_s=2.6,
        always_on=Result(5.0, 5.6, 0.973, -0.067, -0.019),
        reference=Result(6.6, 7.0, 0.976, 0.168, 0.108),
    ),
    PublishedModel(
        "Llama-3.1-8B",
        _LLAMA_8B,
        Roofline(static(_LLAMA_8B), 1.566304180e12, 25163, 1.405, 74.0, 86.1, 214.2),
        ((0.5, 10.0), (0.9, 16.0), (0.99, 30.0), _last(123.0)),
        plain_s=126.4,
        step_s=186.9,
        engine_step_s=0.01366,
        gpu_share=0.6,
        drafter_bytes=3.63e9,
        preparation_s=1.4,
        always_on=Result(5.0, 5.5, 0.963, 0.059, 0.047),
        reference=Result(5.0, 5.4, 0.958, 0.107, 0.079),
    ),
)
