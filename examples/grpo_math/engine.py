"""The rollout engine: stock vLLM with EfficientRollout, in this process."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import LLM, SamplingParams

from nemo_rl_efficientrollout import Settings, engine_kwargs
from nemo_rl_efficientrollout.clock import Clock
from nemo_rl_efficientrollout.engine.metrics import counters
from nemo_rl_efficientrollout.engine.versions import check_vllm_version
from nemo_rl_efficientrollout.nemo_rl.metrics import step_metrics

GPU_MEMORY_SHARE = 0.5
"""Of the GPU; the other half holds the policy, its gradients and its optimizer state."""


@dataclass(frozen=True)
class Rollout:
    """The responses of one call and what the engine did for them."""

    responses: list[list[int]]
    """Token ids, end token included, one list per prompt."""
    seconds: float
    counts: dict[str, int]
    """How much each counter of `efficientrollout_stats` grew."""
    timeline: dict[str, list[Any]]
    """Equal-length lists with one entry per decode step."""
    metrics: dict[str, float]
    """What happened meanwhile, under NeMo-RL's names."""
    gate: tuple[dict[str, Any], dict[str, Any]]
    """`efficientrollout_gate` before and after."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.responses))


class RolloutEngine:
    """vLLM, its drafter and the calls that the job makes to them."""

    COUNTERS = ("drafts", "drafted_tokens", "accepted_tokens", "decode_steps", "speculating_steps")

    def __init__(
        self,
        model: Path,
        settings: Settings,
        *,
        dtype: str,
        max_model_len: int,
        max_num_seqs: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ):
        on_gpu = torch.cuda.is_available()
        check_vllm_version()  # plain decoding is no way out: only the plugin can load new weights
        self.settings = settings
        self._now = Clock()
        self.dtype = getattr(torch, dtype)
        self.sampling = SamplingParams(temperature=temperature, max_tokens=max_new_tokens, detokenize=False)
        self.llm = LLM(
            str(model),
            dtype=dtype,  # pyright: ignore[reportArgumentType]
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            seed=seed,
            enforce_eager=not on_gpu,
            disable_log_stats=False,
            **({"gpu_memory_utilization": GPU_MEMORY_SHARE} if on_gpu else {}),
            **engine_kwargs(model, settings),
        )

    def rollout(self, prompts: list[list[int]]) -> Rollout:
        """Sample one response for each prompt (token ids)."""
        before, gate = self.stats(), self._rpc("efficientrollout_gate")
        counters_before = counters(self.llm.get_metrics())
        self._rpc("efficientrollout_timeline")  # drop what came before
        start = self._now()
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], self.sampling, use_tqdm=False)
        seconds = self._now() - start
        after = self.stats()
        return Rollout(
            responses=[list(output.outputs[0].token_ids) for output in outputs],
            seconds=seconds,
            counts={name: after[name] - before[name] for name in self.COUNTERS},
            timeline=self._rpc("efficientrollout_timeline"),
            metrics=step_metrics(counters_before, counters(self.llm.get_metrics())),
            gate=(gate, self._rpc("efficientrollout_gate")),
        )

    def refit(self, policy: torch.nn.Module) -> float:
        """Give the policy's weights to the engine, which re-quantizes its drafter; seconds."""
        start = self._now()
        # named_parameters lists a tied head once, under the embedding's name, as checkpoints do.
        weights = {name: w.detach().to(self.dtype) for name, w in policy.named_parameters()}
        self._rpc("efficientrollout_load_weights", weights)
        return self._now() - start

    def set_gate(self, gate: dict[str, Any]) -> None:
        """Switch how draft lengths are chosen; the keys are those of the setting `gate`."""
        self._rpc("efficientrollout_set_gate", gate)

    def stats(self) -> dict[str, Any]:
        """Cumulative counters and the policy and drafter versions."""
        return self._rpc("efficientrollout_stats")

    def _rpc(self, method: str, *args: Any) -> Any:
        return self.llm.collective_rpc(method, args=args)[0]


def describe_machine() -> dict[str, Any]:
    """Where the numbers were measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
    }
