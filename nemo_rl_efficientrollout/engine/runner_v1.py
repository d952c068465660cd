"""Adapter to vLLM's V1 model runner: a subclass that drafts with the twin, and is stock vLLM where γ is 0."""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.worker import gpu_model_runner

from ..patching import wrap
from .compat import cpu_sampling, cpu_weights, min_tokens
from .compat.present import present
from .plugin import is_enabled
from .proposer_v1 import TwinProposer
from .self_speculation import SelfSpeculation

_installed = False


def install() -> None:
    """Let workers of this process build our runner for engines that carry our settings. Safe to call again."""
    global _installed
    if _installed:
        return
    cpu_sampling.install()
    cpu_weights.install()
    min_tokens.install()
    present.keep_expert_originals()
    if current_platform.is_cpu():
        from vllm.v1.worker import cpu_worker

        wrap(cpu_worker, "CPUModelRunner", _choose_runner)
    else:
        wrap(gpu_model_runner, "GPUModelRunner", _choose_runner)
    _installed = True


def _choose_runner(stock: type) -> Any:
    ours = type(f"SelfSpeculative{stock.__name__}", (SelfSpeculativeRunner, stock), {})

    def make_runner(vllm_config: VllmConfig, device: torch.device) -> Any:
        return (ours if is_enabled(vllm_config) else stock)(vllm_config, device)

    return make_runner


class SelfSpeculativeRunner:
    """Mixin over `GPUModelRunner` or `CPUModelRunner`.

    vLLM's runner asks `self.speculative_config` everywhere whether it speculates at all. In a step that neither
    verifies nor drafts the answer here is no, so exactly the stock code for plain decoding runs.
    """

    drafter: TwinProposer
    model: Any
    speculative_config: Any
    _drafting = False
    """Whether the present step drafts for the next one."""
    _plain = False
    """Whether it neither drafts nor verifies."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)  # type: ignore[call-arg]
        self.drafter = TwinProposer(vllm_config, device, self)

    @property
    def self_speculation(self) -> SelfSpeculation:
        return self.drafter.state

    def draft_by_policy(self, policy: bool) -> None:
        """Put the policy itself in the drafter's place, or the drafter back."""
        self.drafter.model = self.model if policy else self.drafter.state.twin.model  # type: ignore[union-attr]

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._drafting = scheduler_output.num_spec_tokens_to_schedule > 0 and self.drafter.state.ready
        self._plain = not (self._drafting or scheduler_output.scheduled_spec_decode_tokens)
        call = super().execute_model  # type: ignore[misc]
        return self._hiding_speculation(self._plain, call, scheduler_output, *args, **kwargs)

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        return self._hiding_speculation(self._plain, super().sample_tokens, *args, **kwargs)  # type: ignore[misc]

    def _prepare_inputs(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """A step that drafts but verifies nothing needs no rejection sampling."""
        only_drafts = self._drafting and not scheduler_output.scheduled_spec_decode_tokens
        call = super()._prepare_inputs  # type: ignore[misc]
        return self._hiding_speculation(only_drafts, call, scheduler_output, *args, **kwargs)

    def _input_fits_in_drafter(self, common_attn_metadata: Any) -> bool:
        """Stock vLLM stops drafting for the whole batch near max_model_len; the twin pads the one row instead."""
        return self._drafting and common_attn_metadata is not None

    def _copy_draft_token_ids_to_cpu(self, scheduler_output: Any, zeros_only: bool = False) -> None:
        if zeros_only:  # this step did not draft: hand over nothing rather than γ_max zeros to verify
            self._draft_token_ids = None
            self._draft_token_req_ids = None
        else:
            super()._copy_draft_token_ids_to_cpu(scheduler_output)  # type: ignore[misc]

    def _hiding_speculation(self, hide: bool, call: Any, *args: Any, **kwargs: Any) -> Any:
        if not hide:
            return call(*args, **kwargs)
        kept, self.speculative_config = self.speculative_config, None
        try:
            return call(*args, **kwargs)
        finally:
            self.speculative_config = kept
