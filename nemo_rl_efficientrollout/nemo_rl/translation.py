"""From `policy.generation.backend: efficientrollout` to the configuration that NeMo-RL knows: vLLM with arguments.

NeMo-RL tests the backend's name in many places and passes `vllm_kwargs` to vLLM as they are
(nemo_rl/models/generation/vllm/vllm_worker.py, https://github.com/NVIDIA-NeMo/RL). So its backend stays `vllm`, and
everything that this package needs travels in arguments that vLLM has.
"""

import copy
from collections.abc import Mapping
from typing import Any, cast

from ..api import arguments
from ..config import KEY, Settings, read_settings
from ..errors import SettingsError, nearest, shown
from ..files import DEEPEST, is_deeper
from .blocks import block
from .refusals import refuse
from .trainer import sender_settings

BACKENDS = ("vllm", "sglang", "megatron", "trtllm", "dynamo")
"""Of NeMo-RL itself."""


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved NeMo-RL configuration (training or evaluation) as NeMo-RL itself understands it.

    With another backend than `efficientrollout` it comes back as it was. With ours, `generation.backend` becomes
    `vllm`, `generation.vllm_kwargs` gets what turns speculation on, and `generation.efficientrollout` holds every
    setting, defaults included, for the trainer's side.

    Raises:
        SettingsError: a setting or backend that does not exist, or a combination that cannot work; nothing was started.
    """
    if is_deeper(config, DEEPEST):
        raise SettingsError(f"the configuration is nested more than {DEEPEST} levels deep")
    result = copy.deepcopy(dict(config))
    where, generation = find_generation(result)
    if generation is None or not is_ours(generation, where):
        return result
    settings = read_settings(generation.get(KEY))
    refuse(result, generation, settings, where)
    model = generation.get("model_name") or block(result, "policy").get("model_name")
    if not isinstance(model, str):
        raise SettingsError("policy.model_name is missing: name the policy's model")
    generation["backend"] = "vllm"
    generation["vllm_kwargs"] = with_arguments(block(generation, "vllm_kwargs", where), model, settings)
    generation[KEY] = settings.model_dump()
    sender_settings(block(result, "policy"))
    return result


def find_generation(config: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The block that configures generation, and its key: a policy has it in training, an evaluation by itself."""
    policy = config.get("policy")
    holder, where = (policy, "policy") if isinstance(policy, Mapping) else (config, "")
    generation = block(holder, "generation", where) if holder.get("generation") is not None else None
    return f"{where}.generation".lstrip("."), cast("dict[str, Any] | None", generation)


def is_ours(generation: Mapping[str, Any], where: str = "policy.generation") -> bool:
    """Whether the backend is this package. Raises SettingsError where it is nobody's."""
    backend = generation.get("backend")
    if backend not in (KEY, *BACKENDS):
        raise SettingsError(f"{where}.backend is {shown(backend)}{nearest(shown(backend), (KEY, *BACKENDS))}")
    return backend == KEY


def with_arguments(vllm_kwargs: Mapping[str, Any], model: str, settings: Settings) -> dict[str, Any]:
    """`vllm_kwargs` of NeMo-RL, with speculation."""
    ours = arguments(model, settings)
    ours["additional_config"] = {**block(vllm_kwargs, "additional_config", "vllm_kwargs"), **ours["additional_config"]}
    return {**vllm_kwargs, **ours}


def overrides(config: Mapping[str, Any]) -> list[str]:
    """The same change as Hydra overrides, for NeMo-RL's own scripts. Raises SettingsError."""
    where, generation = find_generation(translated(config))
    if generation is None or KEY not in generation:
        raise SettingsError(f"{where}.backend is not '{KEY}': set it, there is nothing to translate")
    added = {name: generation["vllm_kwargs"][name] for name in arguments("", Settings())}
    blocks = {f"vllm_kwargs.{name}": value for name, value in added.items()} | {KEY: generation[KEY]}
    return [f"{where}.backend=vllm", *(f"++{where}.{name}={in_hydra(value)}" for name, value in blocks.items())]


def in_hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{in_hydra(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
