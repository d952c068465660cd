"""Whether the real engine drafts and verifies in an environment: a tiny random model, a few tokens."""

import json
import tempfile
from pathlib import Path
from typing import Any

from .environments import Environment
from .finding import Finding, Verdict
from .interpreter import Reply, try_engine
from .job import Job

TINY_MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
"""config.json of a model whose layers every format takes; vLLM makes its weights up."""
DRAFT_LENGTH = 3


def save_tiny_model(folder: Path) -> Path:
    """A folder that vLLM can load with `load_format="dummy"`, without network or weights."""
    (folder / "config.json").write_text(json.dumps(TINY_MODEL))
    return folder


def engine_finding(environment: Environment, job: Job) -> Finding:
    """Start an engine with the job's drafter, generate greedily, and look at every worker's counters."""
    settings = job.settings.model_dump()
    longest = min(DRAFT_LENGTH, job.settings.draft_length.max)
    settings["gate"] = {"mode": "fixed", "draft_length": longest}  # whether it pays is not asked here
    settings["refit"] = {}  # no trainer will send a drafter
    with tempfile.TemporaryDirectory(prefix="efficientrollout-model-") as folder:
        reply = try_engine(environment.python, save_tiny_model(Path(folder)), settings, job.enforce_eager)
    return judge(environment, reply)


def judge(environment: Environment, reply: Reply) -> Finding:
    """The finding on what a trial of the engine answered."""
    name = f"engine [{environment.name}]"
    bad: Verdict = "fail" if environment.needed else "warn"
    if reply.error is not None:
        advice = f"start vLLM with {environment.python}, and look at its log"
        return Finding(name, bad, f"it did not run: {reply.error}", advice)
    for rank, counters in enumerate(reply.answer):
        problem = _problem(counters)
        if problem:
            return Finding(name, bad, f"worker {rank}: {problem}", "without a drafter every rollout decodes plainly")
    first = reply.answer[0]
    line = f"{first['drafts']} drafts, {first['accepted_tokens']} of {first['drafted_tokens']} tokens accepted"
    return Finding(name, "ok", f"{line}, drafter as new as the policy")


def _problem(counters: dict[str, Any]) -> str:
    if counters["drafter_problem"]:
        return counters["drafter_problem"]
    if counters["policy_version"] != counters["drafter_version"]:
        return f"its drafter is of version {counters['drafter_version']}, its policy of {counters['policy_version']}"
    return "" if counters["drafts"] else "nothing was drafted"
