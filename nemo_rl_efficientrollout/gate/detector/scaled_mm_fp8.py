"""FP8 through `torch._scaled_mm`: cuBLASLt without another package."""

from collections.abc import Callable

import torch

from .kernel import FP8_SIDE, Gemm, lacks_fp8, random_matrix, round_up

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max


class ScaledMmFp8:
    """Weights and activations E4M3 with one scale each, products summed fast, BF16 result.

    The scale of the activations is fixed, as in checkpoints with static scales: a multiplication and a cast. Finding
    it anew for each GEMM takes engines a fused kernel; spelled out in torch it would cost more than it does there.
    """

    name = "torch._scaled_mm"
    precision = "fp8"

    def available(self, device: torch.device) -> str | None:
        return lacks_fp8(device)

    def prepare(self, out_features: int, in_features: int, device: torch.device) -> Gemm:
        in_features = round_up(in_features, FP8_SIDE)
        weight, weight_scale = _quantize(random_matrix(round_up(out_features, FP8_SIDE), in_features, device))

        def gemm(rows: int) -> Callable[[], object]:
            x = random_matrix(rows, in_features, device)
            _, scale = _quantize(x)
            inverse = scale.reciprocal().to(x.dtype)

            def run() -> object:
                quantized = (x * inverse).to(FP8)
                return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
                    quantized,
                    weight.t(),
                    scale_a=scale,
                    scale_b=weight_scale,
                    out_dtype=torch.bfloat16,
                    use_fast_accum=True,
                )

            return run

        return gemm


def _quantize(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(E4M3 tensor, float32 scale []) with tensor ≈ scale * quantized."""
    scale = tensor.abs().amax().float() / FP8_MAX
    return (tensor / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale
