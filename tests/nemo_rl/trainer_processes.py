"""A Megatron trainer of two tensor-parallel ranks without a GPU: real policy workers, real transports' senders.

NeMo-RL's worker is built by hand, as its constructor needs CUDA, and Megatron-Bridge's export is acted.
"""

# pyright: reportMissingImports=false

import asyncio
import importlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_rl_efficientrollout.errors import UnsupportedError
from tests.megatron.shapes import Shape, hf_weights, load
from tests.nemo_rl.source import import_policy_worker, require_nemo_rl

RANKS = 2
LIMIT = 300
"""Seconds that one side waits for the other."""
DEVICE_ID = "efficientrollout-test-{}"
"""By which NeMo-RL names the socket between a trainer's rank and its engine."""
IPC_BYTES = 2 * 96 * 1024
"""Of its two buffers: less than an embedding, so that tensors travel in many groups, and large ones alone."""
PACKED_BYTES = 100_001
"""Odd, so that parts of packed tensors are not aligned."""


@dataclass(frozen=True)
class Trainer:
    """A policy to train, and how its drafter is made."""

    shape: Shape
    format: str
    socket: str
    """Distinguishes this trainer's sockets from those of others on the machine."""
    lm_head: bool = True

    def config(self) -> dict[str, Any]:
        """NeMo-RL's `policy` block, as far as it is read here."""
        settings = {
            "drafter": {"format": self.format, "lm_head": self.lm_head},
            "refit": {"quantize_on": "trainer"},
        }
        return {"generation": {"backend": "vllm", "vllm_cfg": {"kv_cache_dtype": "auto"}, "efficientrollout": settings}}


class Bridge:
    """Acts Megatron-Bridge: every rank gets the gathered weights under their Hugging Face names, without padding."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def get_conversion_tasks(self, models: list[Any]) -> list[Any]:
        mapping = SimpleNamespace(tp_size=RANKS, ep_size=1, is_expert=False)
        named = ((name, weight) for model in models for name, weight in model.named_parameters())
        return [SimpleNamespace(param_name=name, param_weight=weight, mapping=mapping) for name, weight in named]

    def export_hf_weights(
        self, models: list[Any], show_progress: bool, conversion_tasks: list[Any]
    ) -> Iterator[tuple[str, Tensor]]:
        assert conversion_tasks
        yield from self.weights.items()


class Group:
    """Stands in for the NCCL group of trainer and engines: the first rank's bytes go through a queue."""

    def __init__(self, queue: Any, rank: int) -> None:
        self._queue = queue
        self._rank = rank

    def broadcast(self, tensor: Tensor, src: int) -> None:
        if self._rank == src:
            self._queue.put(tensor.cpu().numpy().tobytes())
        elif self._rank == RANKS:  # the engine
            tensor.copy_(torch.frombuffer(bytearray(self._queue.get()), dtype=torch.uint8))


def checkpoint_engine(queue: Any, rank: int) -> Any:
    """A plug-in transport in NeMo-RL's own chunks, through a queue."""
    base = importlib.import_module("nemo_rl.utils.checkpoint_engines.base")

    class QueueEngine(base.CheckpointEngine):
        def prepare(self) -> None: ...

        def init_policy_process_group(self, **_: Any) -> None: ...

        def init_rollout_process_group(self, **_: Any) -> None: ...

        async def send_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
            for meta, chunk in base.split_weight_chunks(weights, PACKED_BYTES):
                if rank == 0:
                    queue.put((meta, chunk.numpy().tobytes()))
            if rank == 0:
                queue.put(None)

        def receive_weight_batches(self) -> AsyncGenerator[list[tuple[str, Tensor]], None]:
            async def chunks() -> AsyncGenerator[Any, None]:
                while (item := queue.get()) is not None:
                    yield [(item[0], torch.frombuffer(bytearray(item[1]), dtype=torch.uint8))]

            return base.merge_weight_chunk_batches(chunks())

    return QueueEngine()


def no_cuda() -> None:
    """What NeMo-RL asks of CUDA on both sides of a refit, answered without one."""
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None  # pyright: ignore
    torch.cuda.current_stream = lambda *_: SimpleNamespace(synchronize=lambda: None)  # pyright: ignore
    packed: Any = importlib.import_module("nemo_rl.utils.packed_tensor")
    packed.get_target_packed_tensor_size = lambda: PACKED_BYTES
    packed.torch = _TorchWithoutCuda()


class _TorchWithoutCuda:
    """`torch` for NeMo-RL's packing, whose buffers it wants on a GPU."""

    cuda = SimpleNamespace(
        Stream=lambda: SimpleNamespace(synchronize=lambda: None),
        stream=lambda _: nullcontext(),
        current_device=lambda: "cpu",
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *size: Any, device: Any = None, **options: Any) -> Tensor:
        return torch.empty(*size, **options)


def train(rank: int, trainer: Trainer, folder: str, queue: Any) -> None:
    """One rank: answers what a receiver is to expect, then refits by IPC, collective and checkpoint engine."""
    torch.set_num_threads(1)
    from tests.megatron.models import state

    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=LIMIT), world_size=RANKS, rank=rank)
    state.initialize_model_parallel(RANKS)
    worker = new_worker(trainer, rank)
    counted = _count_quantizations()
    info = worker.prepare_refit_info()
    if rank == 0:
        queue.put((info, counted[0]))
    _give(worker, trainer, seed=1)
    if rank == 0:
        worker.stream_weights_via_ipc_zmq(IPC_BYTES)
    else:  # which has an engine of its own
        for _ in worker._iter_params_with_optional_kv_scales():
            pass
    _give(worker, trainer, seed=2)
    worker.model_update_group = Group(queue, rank)
    worker.broadcast_weights_for_collective()
    _give(worker, trainer, seed=3)
    worker.checkpoint_engine = checkpoint_engine(queue, rank)
    asyncio.run(worker.send_weights_via_checkpoint_engine())
    refusal = _refusal(worker)
    if rank == 0:
        queue.put(refusal)
    dist.destroy_process_group()


def new_worker(trainer: Trainer, rank: int) -> Any:
    """Our policy worker around a Megatron-core model in mixed precision's wrapper, with weights of seed 0."""
    require_nemo_rl()
    no_cuda()
    ours = import_policy_worker()
    from megatron.core.transformer.module import Float16Module

    from tests.megatron.models import build

    nvml: Any = importlib.import_module("nemo_rl.utils.nvml")
    nvml.get_device_uuid = lambda _: DEVICE_ID.format(trainer.socket)

    def construct(self: Any, config: Any) -> None:
        model: Any = build(trainer.shape)
        self.cfg, self.rank, self.dtype = config, rank, torch.bfloat16
        self.model = Float16Module(model.config, model)
        self.fp8_cfg = self.draft_model = self.refit_conversion_tasks = None

    ours.stock.MegatronPolicyWorkerImpl.__init__ = construct
    worker = ours.MegatronPolicyWorkerImpl(trainer.config())
    _give(worker, trainer, seed=0)
    return worker


def _give(worker: Any, trainer: Trainer, seed: int) -> None:
    """As after training: other weights in the same model."""
    from tests.megatron.models import state

    weights = hf_weights(trainer.shape, seed)
    load(worker.model.module, weights, trainer.shape, state)
    worker.megatron_bridge = Bridge(weights)


def _count_quantizations() -> list[int]:
    from nemo_rl_efficientrollout.drafter.megatron import stream

    count, original = [0], stream.quantize_shard

    def quantize_shard(*args: Any) -> Any:
        count[0] += 1
        return original(*args)

    stream.quantize_shard = quantize_shard
    return count


def _refusal(worker: Any) -> str:
    """What is said where Megatron-Bridge has another name for a weight than the drafter."""
    weights = dict(worker.megatron_bridge.weights)
    weights["model.layers.1.mlp.other.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    worker.megatron_bridge = Bridge(weights)
    try:
        worker.prepare_refit_info()
    except UnsupportedError as error:
        return str(error)
    return ""
