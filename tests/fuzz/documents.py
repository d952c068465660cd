"""One right document of each kind that users give, small enough to be spoiled thousands of times a minute."""

import csv
import io
import json
from typing import Any

from nemo_rl_efficientrollout.gate.calibration import Calibration, Hypothesis, Parameter, Provenance, RowUsed
from nemo_rl_efficientrollout.gate.terms import Padding, Terms
from tests.runs import history
from tests.sweeps import QWEN_7B

SETTINGS: dict[str, Any] = {
    "drafter": {"format": "int8", "lm_head": True, "simulate": False},
    "refit": {"refresh": "every", "quantize_on": "engine"},
    "draft_length": {"max": 5, "max_requests": 64},
    "gate": {"mode": "fixed", "draft_length": 3, "seed": 0, "calibration": None},
    "strict": False,
}
CONSTANTS: dict[str, Any] = {**QWEN_7B, "derived": 1.0}
SWEEP: list[dict[str, Any]] = [
    {"batch": batch, "seq": seq, "gamma": gamma, "mode": mode, "median_ms": milliseconds, "model": "m"}
    for batch in (1, 8)
    for seq in (256, 1024)
    for gamma, mode, milliseconds in (
        (0, "target_decode", 20 + batch),
        (3, "drafter_decode", 9 + batch),
        (3, "target_verify", 22 + 2 * batch),
    )
]
GRID: list[dict[str, Any]] = [{"batch": batch, "seq": 512, "alpha": alpha} for batch in (1, 4) for alpha in (0.3, 0.9)]
PROBLEMS: list[dict[str, Any]] = [
    {"problem": "What is 2 + 2?", "answer": "4"},
    {"question": "And 40 + 2?", "answer": "40 + 2 is #### 42"},
    {"problem": "A half?", "answer": "\\frac{1}{2}"},
    {"problem": "Pi?", "answer": 3.14},
]
MODEL: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 4,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
EXPERTS: dict[str, Any] = {
    **MODEL,
    "model_type": "qwen2_moe",
    "num_experts": 8,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 256,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [1],
}
NEMO_RL: dict[str, Any] = {
    "policy": {
        "model_name": "some/model",
        "generation": {
            "backend": "efficientrollout",
            "efficientrollout": {**SETTINGS, "gate": {"mode": "auto"}},
            "vllm_cfg": {
                "max_model_len": 512,
                "tensor_parallel_size": 1,
                "pipeline_parallel_size": 1,
                "expert_parallel_size": 1,
                "precision": "bfloat16",
                "env_vars": {},
            },
            "vllm_kwargs": {"additional_config": {}, "speculative_config": None},
            "refit_transport": None,
        },
        "megatron_cfg": {"enabled": True},
        "draft": {"enabled": False},
    },
    "logger": {"log_dir": "logs"},
    "checkpointing": {"checkpoint_dir": "results"},
}
TIMELINE: dict[str, list[float]] = {
    "seconds": [0.0, 0.1, 0.2, 0.3],
    "active": [4, 4, 2, 1],
    "draft_length": [0, 3, 3, 5],
    "drafted": [0, 12, 6, 5],
    "accepted": [0, 10, 5, 5],
    "step_seconds": [0.1, 0.1, 0.1, 0.1],
}
REPORT: dict[str, Any] = {
    "name": "demo",
    "settings": {"steps": 3, "efficientrollout": SETTINGS, "prompts_per_step": 2, "group": 4},
    "model": {"name": "tiny", "parameters": 600000, "dtype": "bfloat16"},
    "machine": {"cpu": "x", "threads": 2},
    "steps": 3,
    "tokens": 3000,
    "policy_version": 3,
    "drafter_version": 3,
    **{name: [0.2, 0.4, 0.6] for name in ("reward", "loss", "rollout_seconds", "train_seconds", "refit_seconds")},
    **{name: [0.9, 0.8, None] for name in ("acceptance_rate", "speculating_fraction", "requantize_seconds")},
    "acceptance_length": [3.0, 2.5, None],
    "drafter_version_lag": [0, 0, 0],
    "response_tokens": [{"mean": 50.0, "median": 40, "max": 90}] * 3,
    "timeline": [TIMELINE, TIMELINE],
    "rollout_ratio": {"median": 0.9, "min": 0.8, "max": 1.1, "pairs": 3},
}
STEPS: list[dict[str, Any]] = [
    {
        "step": step,
        "reward": 0.1 * step,
        "rollout_seconds": 2.0 + 0.1 * step,
        "train_seconds": 1.0,
        "refit_seconds": 0.1,
        "total_seconds": 3.2,
        "drafts": 10,
        "acceptance_rate": 0.9,
        "acceptance_length": 3.1,
        "speculating_fraction": 0.5,
        "draft_length_mean": 2.0,
        "drafter_version_lag": 0,
        "requantize_seconds": 0.01,
        "response_tokens": {"mean": 50.0, "max": 90},
    }
    for step in range(1, 6)
]
INSPECTED: list[dict[str, Any]] = [
    *({"type": "history", "history": {"item": {"_step": step, **row}}} for step, row in history(4)),
    {"type": "summary"},
]
"""What W&B's inspector prints of a run, one object per line."""


def calibration() -> dict[str, Any]:
    """A calibration with a diagonal covariance."""
    names = Terms().names
    found = Calibration(
        provenance=Provenance(
            host="h", gpu="g", source="s", rows=(RowUsed(point="1,256,0,target_decode", weight=1.0),)
        ),
        padding=Padding(captured_rows=(1, 2, 4, 8)),
        drafters=("self",),
        noise_relative=0.02,
        prior=Hypothesis(plain_s=0.01, ridge_rows=90, draft_ratio=0.4, kv_per_ktoken=0.003, attention_per_ktoken=2e-4),
        parameters={name: Parameter(mean=1e-3, std=1e-4) for name in names},
        covariance_s2=tuple(tuple(1e-8 * (i == j) for j in range(len(names))) for i in range(len(names))),
    )
    return found.model_dump(mode="json", by_alias=True)


def as_csv(rows: Any) -> str:
    """Rows as a CSV file; a row that is no mapping becomes a line of its own."""
    text = io.StringIO()
    mappings = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    header = list(dict.fromkeys(key for row in mappings for key in row))
    writer = csv.writer(text, lineterminator="\n", escapechar="\\")
    writer.writerow(header)
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow([row.get(key) for key in header] if isinstance(row, dict) else [row])
    return text.getvalue()


def as_lines(rows: Any) -> str:
    """One JSON value per line."""
    return "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
