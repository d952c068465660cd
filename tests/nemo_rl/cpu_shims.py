# pyright: reportMissingImports=false
"""What stands in for a GPU where NeMo-RL's generation workers ask for one. For tests alone, never in the package.

NeMo-RL is not edited: its modules, torch and vLLM are patched in processes that set `GUARD`, as soon as NeMo-RL's
worker module is imported there. Children (Ray actors, the engine core of an asynchronous engine) get the same by
`shims/sitecustomize.py`, which Python imports at start-up.
"""

import importlib.abc
import importlib.util
import os
import sys
from contextlib import contextmanager
from typing import Any

GUARD = "EFFICIENTROLLOUT_TESTS_NEMO_RL_ON_CPU"
WORKER = "nemo_rl.models.generation.vllm.vllm_worker"
PACKED_BYTES = 64 * 1024
"""Small, so that a tiny model takes several buckets."""


def install() -> None:
    """Patch this process once NeMo-RL's worker module is imported. Safe to call again."""
    if not any(isinstance(finder, _AfterWorker) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterWorker())


class _AfterWorker(importlib.abc.MetaPathFinder):
    """Runs `apply` when `WORKER` was executed: NeMo-RL's package imports it first of all."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != WORKER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_apply(module: Any) -> None:
            execute(module)
            apply()

        loader.exec_module = execute_and_apply
        return spec


def apply() -> None:
    """Patch what is imported now. vLLM's own placeholders for CUDA must be there before."""
    import vllm.v1.worker.cpu.shm as shm
    import vllm.v1.worker.cpu_model_runner  # noqa: F401

    _stand_in_for_cuda(shm)
    _stand_in_for_nvml()
    _hand_over_by_value()
    _pack_on_cpu()
    _admit_sleep()
    _make_room_for_extension()


def _stand_in_for_cuda(shm: Any) -> None:
    import torch

    shm._StreamPlaceholder.synchronize = lambda stream: None
    torch.cuda.current_device = lambda: 0
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None  # absent from builds for CPUs
    if not isinstance(torch.cuda.current_stream, _Streams):  # the sender's process too, which runs no model
        torch.cuda.current_stream = _Streams()


class _Stream:
    def synchronize(self) -> None: ...

    def wait_stream(self, other: Any) -> None: ...


class _Streams:
    def __call__(self, device: Any = None) -> _Stream:
        return _Stream()


def _stand_in_for_nvml() -> None:
    """The device's name is that of the socket over which weights come."""
    from nemo_rl.utils import nvml

    nvml.get_device_uuid = lambda index: f"CPU-{os.getpid()}"


def _hand_over_by_value() -> None:
    """A handle of a CPU tensor carries the tensor; NeMo-RL puts a device's number into it."""
    import nemo_rl.models.generation.vllm.vllm_backend as backend
    from torch.multiprocessing.reductions import rebuild_tensor

    backend.rebuild_cuda_tensor_from_ipc = lambda handle, device: rebuild_tensor(*handle[0])


def _pack_on_cpu() -> None:
    """The packed collective names the device `cuda` and counts its memory."""
    from nemo_rl.utils import packed_tensor

    packed_tensor.torch = _TorchOnCpu()
    packed_tensor.get_target_packed_tensor_size = lambda: PACKED_BYTES


class _TorchOnCpu:
    """`torch`, but what is asked of a GPU is done on the CPU."""

    class cuda:  # noqa: N801
        Stream = _Stream

        @staticmethod
        @contextmanager
        def stream(stream: Any) -> Any:
            yield

        @staticmethod
        def current_device() -> str:
            return "cpu"

    @staticmethod
    def empty(*shape: Any, device: Any = None, **kwargs: Any) -> Any:
        import torch

        return torch.empty(*shape, **kwargs)

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


def _admit_sleep() -> None:
    """NeMo-RL always asks for sleep mode; vLLM-CPU refuses it, although its workers' `sleep` does nothing."""
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.is_sleep_mode_available = lambda self: True


def _make_room_for_extension() -> None:
    """vLLM 0.32's worker has a method of a name that NeMo-RL's extension, made for 0.25.1, adds too."""
    from nemo_rl.models.generation.vllm.vllm_backend import VllmInternalWorkerExtension
    from vllm.v1.worker.worker_base import WorkerBase

    if hasattr(WorkerBase, "synchronize_device") and hasattr(VllmInternalWorkerExtension, "synchronize_device"):
        del VllmInternalWorkerExtension.synchronize_device
