"""The file of the installed vLLM for model runner V2, as in `present` for all else.

Apart from it because it imports Triton kernels, which an engine on model runner V1 can do without.
"""

from ..versions import check_vllm_version

if check_vllm_version() == "0.25.1":
    from . import v2_vllm_0_25_1 as present
else:
    from . import v2_vllm_0_32_0 as present

__all__ = ["present"]
