"""Whether the engine that is being built is one that this package drives."""

from vllm.config import get_current_vllm_config_or_none


def builds_ours() -> bool:
    """False where no engine is being built. Known only while vLLM loads a model."""
    from ..plugin import is_enabled

    config = get_current_vllm_config_or_none()
    return config is not None and is_enabled(config)
