"""The specification on a GPU: the same bits as on a CPU, and as Transformer Engine's own quantizer."""

import pytest
import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.formats import te as our_te
from nemo_rl_efficientrollout.drafter.fused import quantize_packed

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

CUDA = torch.device("cuda")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def random_weight(dtype: torch.dtype, rows: int = 256, columns: int = 896) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    exponents = torch.randint(-12, 8, (rows, 1), generator=generator)
    weight *= 2.0**exponents
    weight[3] = 0
    return weight.to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_gpu_quantizes_as_a_cpu_does(name: str, dtype: torch.dtype) -> None:
    weight = random_weight(dtype)
    for own, expected in (
        (FORMATS[name].quantize(weight.cuda()), FORMATS[name].quantize(weight)),
        (quantize_packed(FORMATS[name], weight.cuda()), quantize_packed(FORMATS[name], weight)),
    ):
        for a, b in zip(own, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(bits(a), bits(b))


@pytest.mark.skipif(our_te.why_not(CUDA) is not None, reason=str(our_te.why_not(CUDA)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_transformer_engine_quantizes_as_the_specification_does(dtype: torch.dtype) -> None:
    weight = random_weight(dtype).cuda()
    weight[:128] *= 2.0**-12 if dtype == torch.float16 else 2.0**-125
    own, expected = our_te.quantize_fp8_block(weight), FORMATS["fp8_block"].quantize(weight)
    assert torch.equal(bits(own.data), bits(expected.data))
    assert torch.equal(bits(own.scale), bits(expected.scale))
