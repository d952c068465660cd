"""Combinations of NeMo-RL's configuration that cannot work with a self-drafter, refused before a GPU is taken."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..config import KEY, Settings
from ..errors import SettingsError, shown
from .blocks import Block, block, whole

NIXL_WORKER = "nemo_rl.models.generation.vllm.vllm_backend.NixlVllmWorker"


class View(NamedTuple):
    """A configuration as the checks below look at it."""

    config: Block
    generation: Block
    settings: Settings
    where: str
    """The key of `generation`."""

    @property
    def vllm(self) -> Block:
        return block(self.generation, "vllm_cfg", self.where)

    @property
    def kwargs(self) -> Block:
        return block(self.generation, "vllm_kwargs", self.where)

    @property
    def policy(self) -> Block:
        return block(self.config, "policy")

    @property
    def reserved(self) -> int:
        """Tokens of the context that NeMo-RL keeps free for a draft."""
        return self.settings.draft_length.max + 1

    @property
    def max_model_len(self) -> int:
        return whole(self.vllm, "max_model_len", f"{self.where}.vllm_cfg", 0)

    @property
    def worker(self) -> str:
        return shown(self.kwargs.get("worker_cls"))

    @property
    def plugins(self) -> Any:
        """Of vLLM that are admitted; None for all."""
        return block(self.vllm, "env_vars", f"{self.where}.vllm_cfg").get("VLLM_PLUGINS")

    def enabled(self, *path: str) -> bool:
        """Whether the policy's block at `path` has `enabled: true`."""
        found: Any = self.policy
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return isinstance(found, Mapping) and bool(found.get("enabled"))

    def size(self, name: str) -> int:
        return whole(self.vllm, name, f"{self.where}.vllm_cfg", 1)


def refuse(config: Block, generation: Block, settings: Settings, where: str) -> None:
    """Raises SettingsError naming the key in the way, what was expected and what to change."""
    view = View(config, generation, settings, where)
    for is_in_the_way, reason in _REASONS:
        if is_in_the_way(view):
            raise SettingsError(
                where + reason.format(view=view, draft_length=settings.draft_length, gate=settings.gate)
            )


def _calibration_is_missing(view: View) -> bool:
    return view.settings.gate.calibration is not None and not os.path.isfile(view.settings.gate.calibration)


def _speculates_otherwise(view: View) -> bool:
    other = view.kwargs.get("speculative_config")
    return isinstance(other, Mapping) and other.get("num_speculative_tokens") != 0


def _is_synthetic(view: View) -> bool:
    other = view.kwargs.get("speculative_config")
    return isinstance(other, Mapping) and other.get("rejection_sample_method") == "synthetic"


def _has_a_foreign_worker(view: View) -> bool:
    return (view.kwargs.get("worker_cls") or NIXL_WORKER) != NIXL_WORKER


def _plugins_exclude_ours(view: View) -> bool:
    return view.plugins is not None and (not isinstance(view.plugins, str) or KEY not in view.plugins.split(","))


_REASONS: tuple[tuple[Callable[[View], bool], str], ...] = (
    (
        lambda view: not view.vllm,
        ".vllm_cfg is missing: the backend is vLLM with a drafter, and is configured there",
    ),
    (
        lambda view: view.max_model_len < view.reserved + 2,
        ".efficientrollout.draft_length.max is {draft_length.max}, for which NeMo-RL keeps {view.reserved} tokens of"
        " every context free, but vllm_cfg.max_model_len is {view.max_model_len}: lower the first or raise the"
        " second",
    ),
    (
        _is_synthetic,
        ".vllm_kwargs.speculative_config asks for synthetic acceptance, which accepts what the policy would not say:"
        " it is for cost benchmarks, remove it",
    ),
    (
        _speculates_otherwise,
        ".vllm_kwargs.speculative_config is set already: remove it, or set backend to 'vllm'",
    ),
    (
        lambda view: bool(view.kwargs.get("scheduler_cls")),
        ".vllm_kwargs.scheduler_cls is set already, but the scheduler chooses the draft length: remove it",
    ),
    (
        _has_a_foreign_worker,
        ".vllm_kwargs.worker_cls is {view.worker}, of which it is not known that it can have a drafter: remove it",
    ),
    (
        lambda view: bool(view.generation.get("quant_cfg")) or bool(view.generation.get("real_quant")),
        ".quant_cfg or real_quant is set: ModelOpt's quantized policies have no weights to make a drafter from, remove"
        " it or set backend to 'vllm'",
    ),
    (
        lambda view: view.vllm.get("precision") == "fp8" and view.settings.drafter.format != "bf16",
        ".vllm_cfg.precision is 'fp8', but the drafter is made from an unquantized policy: set it to 'bfloat16', and"
        " efficientrollout.drafter.format to 'fp8' if FP8 kernels are what you want",
    ),
    (
        lambda view: view.size("pipeline_parallel_size") > 1,
        ".vllm_cfg.pipeline_parallel_size is {view.vllm[pipeline_parallel_size]}: the drafter needs every layer on a"
        " rank, set it to 1",
    ),
    (
        lambda view: view.size("expert_parallel_size") > view.size("tensor_parallel_size"),
        ".vllm_cfg.expert_parallel_size is {view.vllm[expert_parallel_size]}, more than tensor_parallel_size: data"
        " parallelism inside an engine cannot draft, set it to tensor_parallel_size or less",
    ),
    (
        lambda view: bool(view.kwargs.get("enable_lora")),
        ".vllm_kwargs.enable_lora is set: the drafter is made from whole weights, let the refit send merged ones and"
        " remove it",
    ),
    (
        lambda view: bool(view.vllm.get("enable_return_routed_experts")),
        ".vllm_cfg.enable_return_routed_experts is set: drafts route experts too and would be returned, set it to"
        " false",
    ),
    (
        lambda view: bool(view.kwargs.get("kv_transfer_config")),
        ".vllm_kwargs.kv_transfer_config is set: KV connectors would transfer the drafter's writes, remove it",
    ),
    (
        lambda view: view.enabled("draft"),
        ": policy.draft.enabled is true, which trains another drafter: set it to false",
    ),
    (
        _plugins_exclude_ours,
        ".vllm_cfg.env_vars.VLLM_PLUGINS is '{view.plugins:.100}': add 'efficientrollout'",
    ),
    (
        _calibration_is_missing,
        ".efficientrollout.gate.calibration is '{gate.calibration}', which is no file here: give the path of a file"
        " that every node sees",
    ),
    (
        lambda view: view.settings.refit.quantize_on == "trainer" and not view.enabled("megatron_cfg"),
        ".efficientrollout.refit.quantize_on is 'trainer', which only Megatron policies can do: set it to 'engine'",
    ),
)
