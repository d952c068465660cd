"""FP8 through Transformer Engine, the kernels that NeMo's trainers run."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch

from .kernel import FP8_SIDE, Gemm, lacks_fp8, random_matrix, round_up

ROWS = 8
"""`te.Linear` refuses activations whose rows are no multiple of this in FP8: fewer are padded, as a caller must."""


class TransformerEngineFp8:
    """`te.Linear` with weights kept in FP8, one scale per tensor, found anew for the activations of each GEMM.

    Source: https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/api/pytorch.html
    (`quantized_model_init`, `autocast`) and its recipe `Float8CurrentScaling`.
    """

    name = "transformer_engine"
    precision = "fp8"

    def available(self, device: torch.device) -> str | None:
        # The GPU first: without one, importing Transformer Engine fails.
        reason = lacks_fp8(device)
        if reason is not None:
            return reason
        if find_spec("transformer_engine") is None:
            return "transformer_engine is not installed"
        try:
            te = import_module("transformer_engine.pytorch")
        except (ImportError, OSError, RuntimeError) as error:  # built for another torch, a library it misses
            return f"transformer_engine does not load: {str(error).strip().partition(chr(10))[0]}"
        if not hasattr(te, "quantized_model_init"):
            return "transformer_engine is older than 2.9"
        usable, reason = te.is_fp8_available(return_reason=True)
        return None if usable else f"transformer_engine: {reason}"

    def prepare(self, out_features: int, in_features: int, device: torch.device) -> Gemm:
        te = import_module("transformer_engine.pytorch")
        recipe = import_module("transformer_engine.common.recipe").Float8CurrentScaling()
        out_features, in_features = round_up(out_features, FP8_SIDE), round_up(in_features, FP8_SIDE)
        with te.quantized_model_init(enabled=True, recipe=recipe):
            linear = te.Linear(in_features, out_features, bias=False, params_dtype=torch.bfloat16, device=device)

        def gemm(rows: int) -> Callable[[], object]:
            x = random_matrix(round_up(rows, ROWS), in_features, device)

            def run() -> object:
                with te.autocast(enabled=True, recipe=recipe):
                    return linear(x)

            return run

        return gemm
