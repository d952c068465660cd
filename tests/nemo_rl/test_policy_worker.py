"""A drafter on its whole way through NeMo-RL: two Megatron ranks quantize, NeMo-RL's transports carry, vLLM drafts."""

# pyright: reportMissingImports=false

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import rebuild_tensor
from torch.multiprocessing.spawn import start_processes

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.packing import PREFIX
from tests.nemo_rl.source import require_nemo_rl

require_nemo_rl()
pytest.importorskip("megatron.core")

from tests.engines import core_of, start, stats, worker_state  # noqa: E402
from tests.megatron.checkpoints import save_policy  # noqa: E402
from tests.megatron.shapes import Shape, hf_weights, quantizable  # noqa: E402
from tests.nemo_rl.trainer_processes import (  # noqa: E402
    DEVICE_ID,
    LIMIT,
    RANKS,
    Group,
    Trainer,
    checkpoint_engine,
    no_cuda,
    train,
)

pytestmark = pytest.mark.engine
EXTENSION = "nemo_rl.models.generation.vllm.vllm_backend.VllmInternalWorkerExtensionWithCheckpointEngine"
CASES = {
    "int4": Trainer(Shape(), "int4", f"{os.getpid()}-int4"),
    "fp8, tied": Trainer(Shape(tied=True), "fp8", f"{os.getpid()}-fp8"),
    "int8, no head": Trainer(Shape(), "int8", f"{os.getpid()}-int8", lm_head=False),
}


@pytest.fixture(scope="module", autouse=True)
def _receivers_without_cuda() -> None:
    """NeMo-RL's receiving side in this process, where vLLM runs."""
    import nemo_rl.models.generation.vllm.vllm_backend as backend
    import nemo_rl.utils.nvml as nvml

    nvml.get_device_uuid = lambda _: DEVICE_ID.format(_socket[-1])
    backend.rebuild_cuda_tensor_from_ipc = lambda handle, _: rebuild_tensor(*handle[0])
    if hasattr(backend.VllmInternalWorkerExtension, "synchronize_device"):  # vLLM 0.32 has one of its own
        del backend.VllmInternalWorkerExtension.synchronize_device


_socket: list[str] = []


class Ranks:
    """A trainer's processes, and what the first of them says."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._queue = torch.multiprocessing.get_context("spawn").Queue()
        self._processes: Any = start_processes(train, (trainer, str(folder), self._queue), RANKS, join=False)

    def get(self) -> Any:
        """The next thing said. Raises what made a rank end instead."""
        give_up = time.monotonic() + LIMIT
        while time.monotonic() < give_up:
            self._processes.join(timeout=0)
            try:
                return self._queue.get(timeout=1)
            except Empty:
                continue
        raise TimeoutError(f"the trainer said nothing for {LIMIT} seconds")

    def end(self) -> None:
        for process in self._processes.processes:
            process.terminate()
            process.join()


@contextmanager
def training(trainer: Trainer, folder: Path) -> Iterator[Ranks]:
    """Two ranks at work."""
    no_cuda()  # vLLM's own stand-ins came with the engines
    ranks = Ranks(trainer, folder)
    try:
        yield ranks
    finally:
        ranks.end()


def settings(trainer: Trainer, quantize_on: str) -> dict[str, Any]:
    return {
        "drafter": {"format": trainer.format, "lm_head": trainer.lm_head, "simulate": trainer.format == "fp8"},
        "refit": {"quantize_on": quantize_on},
        "draft_length": {"max": 3},
        "gate": {"mode": "off"},
        "strict": True,
    }


@pytest.mark.parametrize("case", CASES)
def test_every_transport_brings_the_drafter_that_the_engine_would_make(case: str, tmp_path: Path) -> None:
    trainer = CASES[case]
    _socket.append(trainer.socket)
    old = save_policy(tmp_path / "old", trainer.shape, seed=9)
    theirs = start(old, settings(trainer, "trainer"), dtype="bfloat16", worker_extension_cls=EXTENSION)
    ours = start(old, settings(trainer, "engine"), dtype="bfloat16")
    worker = core_of(theirs).model_executor.driver_worker.worker
    left: list[str] = []
    for layer in worker_state(theirs).twin.quantized:
        layer.method.refill = lambda source, path=layer.path: left.append(path)

    def refitted_by(method: str, seed: int) -> None:
        assert core_of(theirs).collective_rpc(method) == [True]
        core_of(ours).collective_rpc("efficientrollout_load_weights", args=(hf_weights(trainer.shape, seed),))
        assert stats(theirs)["drafter_problem"] == ""
        assert stats(theirs)["drafter_version"] == stats(theirs)["policy_version"] == seed
        assert left == []  # every layer came from the trainer
        pairs = zip(worker_state(theirs).twin.tensors(), worker_state(ours).twin.tensors(), strict=True)
        assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)

    worker.maybe_init_zmq()
    with closing(worker.zmq_socket), training(trainer, tmp_path) as said:
        info, quantized = said.get()
        assert quantized == 0  # shapes and types are known without
        assert names_of_weights(info) == expected_names(trainer)
        core_of(theirs).collective_rpc("prepare_refit_info", args=(info,))
        worker.checkpoint_engine = SimpleNamespace(shard_expert_weights=False)
        refitted_by("update_weights_via_ipc_zmq", seed=1)
        worker.model_update_group = Group(said, RANKS)
        refitted_by("update_weights_from_collective", seed=2)
        worker.checkpoint_engine = checkpoint_engine(said, RANKS)
        refitted_by("update_weights_from_checkpoint_engine", seed=3)
        assert "'model.layers.1.mlp.up_proj.weight' [512, 256], of which Megatron-Bridge exports nothing" in said.get()


def names_of_weights(info: dict[str, Any]) -> set[str]:
    """Of the drafter, without parts."""
    return {name.removeprefix(PREFIX).rpartition(".")[0] for name in info if name.startswith(PREFIX)}


def expected_names(trainer: Trainer) -> set[str]:
    names = set(quantizable(hf_weights(trainer.shape), trainer.shape))
    return names if trainer.lm_head else names - {"lm_head.weight"}


def test_the_formats_travel_as_different_types() -> None:
    """So that the cases above try more than one of NeMo-RL's ways with a type."""
    codes = {FORMATS[trainer.format].quantize(torch.ones(8, 128)).data.dtype for trainer in CASES.values()}
    assert len(codes) == len(CASES)
