"""Triton kernels compiled for GPUs that need not be there: only instructions that round as the specification does."""

import os
import re
from typing import Any

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402  # pyright: ignore[reportMissingImports]
from triton.compiler import ASTSource  # noqa: E402  # pyright: ignore[reportMissingImports]

from nemo_rl_efficientrollout.drafter import fused_triton  # noqa: E402

TYPES = {"weight": "*i16", "zero": "*i32", "rows": "i32", "columns": "i32", "stride": "i32"}
SCALED, GROUPS = {"scale": "*fp32", "data": "*u8"}, {"scale": "*i16", "data": "*i32"}
KERNELS: list[tuple[Any, dict[str, str], dict[str, Any], int, int]] = [  # types, constants, weights, warps of a program
    (fused_triton._int8, {**SCALED, "data": "*i8"}, {"height": 4, "width": 1024}, 4096, 4),
    (fused_triton._int8, {**SCALED, "data": "*i8"}, {"height": 1, "width": 32768}, 32768, 16),
    (fused_triton._fp8, SCALED, {"height": 1, "width": 4096}, 4096, 4),
    (fused_triton._fp8_block, SCALED, {"side": 128}, 128 * 128, 8),
    (fused_triton._int4, GROUPS, {"symmetric": False, "size": 128, "count": 8}, 8192, 8),
    (fused_triton._int4, GROUPS, {"symmetric": True, "size": 32, "count": 32}, 8192, 8),
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("kernel", "types", "constants", "tile", "warps"), KERNELS)
def test_divisions_are_exact_and_nothing_is_flushed_or_fused(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], tile: int, warps: int, capability: int
) -> None:
    types = {**TYPES, **types}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names if name in types | constants}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(kernel.arg_names) if name in types}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    assert set(re.findall(r"\bdiv\.[\w.]*f32", assembly)) == {"div.rn.f32"}
    assert not re.findall(r"\.ftz|\.approx|\bfma\.", assembly)
    loads = re.findall(r"ld\.global[\w.]*", assembly)
    assert loads == ["ld.global.v4.b32"] * (tile // warps // 32 // 8), "each weight once, 16 bytes at a time"
