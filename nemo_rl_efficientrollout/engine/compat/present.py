"""The names of the installed vLLM's compat file."""

from ..versions import check_vllm_version

match check_vllm_version():
    case "0.32.0":
        from .vllm_0_32_0 import *  # noqa: F403
