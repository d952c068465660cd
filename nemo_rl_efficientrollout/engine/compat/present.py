"""The file of the installed vLLM: the one place that asks which version this is.

Every `vllm_*.py` beside this one defines the same names; nothing else in `engine` branches on versions.
"""

from ..versions import check_vllm_version

if check_vllm_version() == "0.25.1":
    from . import vllm_0_25_1 as present
else:
    from . import vllm_0_32_0 as present

__all__ = ["present"]
