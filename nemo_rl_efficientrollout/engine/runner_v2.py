"""Adapter to vLLM's model runner V2: our speculator in place of vLLM's, and stock vLLM where γ is 0."""

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager
from vllm.v1.worker.gpu.spec_decode import rejection_sampler

from ..config import KEY, read_settings
from ..patching import wrap
from .compat import cpu_weights
from .compat.present import present
from .draft_graphs import verify_shapes
from .draft_logits import verify_with
from .plugin import is_enabled
from .self_speculation import SelfSpeculation
from .speculator_v2 import TwinSpeculator

_installed = False


def install() -> None:
    """Let workers of this process build our runner for engines that carry our settings. Safe to call again."""
    global _installed
    if _installed:
        return
    wrap(model_runner, "init_speculator", _choose_speculator)
    wrap(model_runner, "ModelCudaGraphManager", _choose_graphs)
    if current_platform.is_cpu():
        cpu_weights.install()
        present.keep_expert_originals()
        from vllm.v1.worker.cpu import model_runner as cpu_model_runner  # which needs a Triton that compiles for CPUs

        wrap(cpu_model_runner, "CPUModelRunner", _choose_runner)
    else:
        wrap(model_runner, "GPUModelRunner", _choose_runner)
    wrap(rejection_sampler, "rejection_sample", verify_with)
    _installed = True


def _choose_speculator(stock: Any) -> Any:
    def init_speculator(vllm_config: Any, device: Any, *args: Any) -> Any:
        if is_enabled(vllm_config):
            return TwinSpeculator(vllm_config, device)
        return stock(vllm_config, device, *args)

    return init_speculator


def _choose_graphs(stock: Any) -> Any:
    def make_manager(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        kind: Any = VariableLengthGraphs if is_enabled(vllm_config) else stock
        return kind(vllm_config, *args, **kwargs)

    return make_manager


def _choose_runner(stock: Any) -> Any:
    ours: Any = type(f"SelfSpeculative{stock.__name__}", (SelfSpeculativeRunnerV2, stock), {})

    def make_runner(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        return (ours if is_enabled(vllm_config) else stock)(vllm_config, *args, **kwargs)

    return make_runner


class SelfSpeculativeRunnerV2:
    """Mixin over `GPUModelRunner`."""

    model: Any
    speculator: Any
    num_speculative_steps: int
    execute_model_state: Any
    draft_tokens_handler: Any
    _plain = False
    """Whether the present step neither drafts nor verifies."""

    @property
    def self_speculation(self) -> SelfSpeculation:
        return self.speculator.state

    def draft_by_policy(self, policy: bool) -> None:
        """Put the policy itself in the drafter's place, or the drafter back."""
        self.speculator.draft_by_policy(self.model if policy else None)

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("dummy_run"):
            self.speculator.draft_length = scheduler_output.num_spec_tokens_to_schedule
            self._plain = not (self.speculator.draft_length or scheduler_output.scheduled_spec_decode_tokens)
        return super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Hands γ drafts on. A step that neither verifies nor drafts has no speculator: no kernel of ours runs."""
        call = super().sample_tokens  # type: ignore[misc]
        if self.execute_model_state is None:
            return call(*args, **kwargs)
        handler, names = self.draft_tokens_handler, self.execute_model_state.input_batch.req_ids
        if self._plain:
            answer = self._without_speculator(call, *args, **kwargs)
            handler.req_ids, handler.draft_tokens_np = names, None
        else:
            answer = call(*args, **kwargs)
        handler.num_draft_tokens = self.speculator.draft_length  # 0.25.1 would hand over γ_max
        if handler.draft_tokens_np is not None:
            handler.draft_tokens_np = handler.draft_tokens_np[:, : self.speculator.draft_length]
        return answer

    def _without_speculator(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        kept, self.speculator = self.speculator, None
        lengths, self.num_speculative_steps = self.num_speculative_steps, 0
        try:
            return call(*args, **kwargs)
        finally:
            self.speculator, self.num_speculative_steps = kept, lengths


class VariableLengthGraphs(ModelCudaGraphManager):
    """Full graphs of the target for every γ: stock vLLM captures verification of γ_max alone, and pads plain decoding
    to it or runs it piecewise."""

    def _init_candidates(self) -> None:
        super()._init_candidates()
        mode = self.cudagraph_mode.decode_mode()
        if not (self.cudagraph_mode.separate_routine() and mode in self._capture_descs):
            return
        settings = read_settings(self.vllm_config.additional_config[KEY])  # type: ignore[index]
        requests_by_tokens = verify_shapes(
            self.compilation_config.cudagraph_capture_sizes or (),
            self.max_num_reqs,
            settings.draft_length.max_requests,
            settings.draft_length.max,
        )
        most = self.compilation_config.max_cudagraph_capture_size or 0
        uniform = [
            BatchExecutionDescriptor(mode, requests * tokens, requests, uniform_token_count=tokens)
            for tokens, sizes in requests_by_tokens.items()
            for requests in sizes
            if requests * tokens <= most
        ]
        self._capture_descs[mode] = sorted(uniform, key=lambda shape: shape.num_tokens, reverse=True)
        mixed = [shapes for kind, shapes in self._capture_descs.items() if kind != mode]
        self._candidates = candidates(uniform, [shape for shapes in mixed for shape in shapes])


def candidates(
    uniform: list[BatchExecutionDescriptor], mixed: list[BatchExecutionDescriptor]
) -> dict[tuple[int, int], list[BatchExecutionDescriptor]]:
    """By (tokens, 0 adapters), the shapes to try in order: the smallest uniform one of every length, then mixed."""
    most = max((shape.num_tokens for shape in (*uniform, *mixed)), default=0)
    by_length: dict[Any, list[BatchExecutionDescriptor]] = {}
    for shape in (*uniform, *mixed):
        by_length.setdefault(shape.uniform_token_count, []).append(shape)
    found = {}
    for tokens in range(most + 1):
        fitting = [
            min((shape for shape in shapes if shape.num_tokens >= tokens), key=lambda s: s.num_tokens, default=None)
            for shapes in by_length.values()
        ]
        found[tokens, 0] = [shape for shape in fitting if shape is not None]
    return found
