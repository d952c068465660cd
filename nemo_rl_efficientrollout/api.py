"""The public entrance: from settings to the arguments of a stock vLLM engine."""

import warnings
from os import PathLike, fspath
from typing import Any

from .config import KEY, Settings, read_settings
from .engine.versions import check_vllm_version
from .errors import UnsupportedError

SCHEDULER = "nemo_rl_efficientrollout.engine.scheduler.new_scheduler"


def engine_kwargs(model: str | PathLike[str], settings: Any = None) -> dict[str, Any]:
    """vLLM engine arguments that turn on self-speculative decoding.

    Use as `LLM(model, **engine_kwargs(model, {"drafter": {"format": "int8"}}))`, with any further vLLM arguments.

    Args:
        model: what the engine is given as `model`; the drafter is made from its weights, nothing else is loaded.
        settings: mapping, OmegaConf node or `Settings`; see `config.Settings` for keys and defaults.

    Returns:
        `speculative_config`, `scheduler_cls` and `additional_config`. Empty (plain decoding), with one warning, where
        the installed vLLM is not supported.

    Raises:
        SettingsError: a key that does not exist or a value that is not allowed.
        UnsupportedError: the installed vLLM is not supported and `strict` is set.
    """
    checked = read_settings(settings)
    try:
        check_vllm_version()
    except UnsupportedError as error:
        if checked.strict:
            raise
        warnings.warn(f"EfficientRollout is off, decoding plainly: {error}", stacklevel=2)
        return {}
    return arguments(model, checked)


def arguments(model: str | PathLike[str], settings: Settings) -> dict[str, Any]:
    """The same for a vLLM that is elsewhere, such as in the environment of NeMo-RL's workers."""
    return {
        "speculative_config": {
            # vLLM reserves KV-cache slots for this method; the worker puts the twin in the draft model's place.
            "method": "draft_model",
            "model": fspath(model),
            "num_speculative_tokens": settings.draft_length.max,
            "draft_sample_method": "probabilistic",
            "rejection_sample_method": "standard",
        },
        "scheduler_cls": SCHEDULER,
        "additional_config": {KEY: settings.model_dump()},
    }
