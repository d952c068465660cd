"""EfficientRollout: lossless self-speculative rollouts for NeMo-RL on stock vLLM."""

from .api import engine_kwargs
from .config import Settings, read_settings

__all__ = ["Settings", "engine_kwargs", "read_settings"]
__version__ = "0.1.0"
