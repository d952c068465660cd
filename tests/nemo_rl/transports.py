# pyright: reportMissingImports=false
"""A trainer for each way by which NeMo-RL sends weights, as far as it can be had without a GPU: NeMo-RL's own code
packs, compares and encodes; only the wire is a queue."""

import io
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from tests.nemo_rl.worker import Weights


class Line:
    """The receiving end of a process group of two: gives what the trainer's end broadcast, in its order."""

    rank = 1

    def __init__(self) -> None:
        self.sent: deque[torch.Tensor] = deque()
        self.trainer = _TrainersEnd(self.sent)

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self.sent.popleft())


class _TrainersEnd:
    rank = 0

    def __init__(self, sent: deque[torch.Tensor]) -> None:
        self._sent = sent

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        self._sent.append(tensor.clone())


def broadcast_packed(line: Line, weights: Weights) -> None:
    """What the trainer does while workers are in `update_weights_from_collective`."""
    from nemo_rl.utils.packed_tensor import packed_broadcast_producer

    packed_broadcast_producer(iter(weights.items()), line.trainer, src=0, post_iter_func=lambda pair: pair[1])


def reshard_info(weights: Weights) -> dict[str, Any]:
    """What a trainer of one rank announces to `prepare_nccl_reshard_refit_info`: FFNs in bulk, the rest packed."""
    from nemo_rl.weight_sync.nccl_reshard_utils import MeshInfo, Replicate, is_nccl_reshard_param

    layers: dict[str, list[dict[str, Any]]] = {}
    for name, tensor in weights.items():
        if is_nccl_reshard_param(name):
            layers.setdefault(name.split(".mlp.")[0], []).append(
                {
                    "name": name,
                    "global_shape": tuple(tensor.shape),
                    "dtype": str(tensor.dtype),
                    "src_mesh_info": MeshInfo(torch.tensor([0])),
                    "dst_mesh_info": MeshInfo(torch.tensor([1])),
                    "src_placements": [Replicate()],
                    "dst_placements": [Replicate()],
                }
            )
    rest = {name: tensor for name, tensor in weights.items() if not is_nccl_reshard_param(name)}
    misc = {name: {"shape": tuple(tensor.shape), "dtype": str(tensor.dtype)} for name, tensor in rest.items()}
    return {"layer_names": list(layers), "per_layer_params": layers, "misc_meta": misc}


def reshard(bulk: Line, packed: Line, weights: Weights) -> None:
    """What the trainer does while workers are in `nccl_reshard_refit`."""
    from nemo_rl.weight_sync.xferdtensor import DTensorRef, xferdtensor

    info = reshard_info(weights)
    for layer in info["layer_names"]:
        for part in info["per_layer_params"][layer]:
            source = DTensorRef(weights[part["name"]], part["global_shape"])
            here, there = ((part[f"{end}_mesh_info"], part[f"{end}_placements"]) for end in ("src", "dst"))
            xferdtensor(source, *here, None, *there, bulk.trainer)
    broadcast_packed(packed, {name: weights[name] for name in info["misc_meta"]})


class DeltaTrainer:
    """Sends what changed since the last weights, as NeMo-RL's sparse transports encode it."""

    def __init__(self, weights: Weights, encoding: str) -> None:
        from nemo_rl.models.generation.vllm.config import VllmSparseRefitConfig
        from nemo_rl.utils.weight_transfer_sparse_codec import DeltaCompressionTracker

        config = {"delta_compression": {"encoding": encoding}, "baseline": {"in_memory": True}}
        config |= {"verify_samples_per_payload": 8}
        self._tracker = DeltaCompressionTracker(VllmSparseRefitConfig.model_validate(config))
        self._tracker.snapshot_baseline(weights.items())

    def payloads(self, weights: Weights, count: int) -> Iterator[bytes]:
        """All changes in `count` payloads."""
        names = list(weights)
        for index in range(count):
            part = [(name, weights[name]) for name in names[index::count]]
            file = io.BytesIO()
            torch.save(self._tracker.prepare_sparse_delta_payload(part)[0], file)
            yield file.getvalue()
        self._tracker.on_sync_succeeded()


handed_over: deque[list[tuple[str, torch.Tensor]]] = deque()
"""Batches that the trainer's checkpoint engine left for the worker's."""


def checkpoint_engine(bucket_size: int, **options: Any) -> Any:
    """A checkpoint engine of NeMo-RL's plug-in kind: `refit_transport` names this function."""
    from nemo_rl.utils.checkpoint_engines.base import CheckpointEngine

    class HandedOver(CheckpointEngine):
        def prepare(self) -> Any:
            return {}

        def init_policy_process_group(self, **_: Any) -> None: ...

        def init_rollout_process_group(self, **_: Any) -> None: ...

        async def send_weights(self, weights: Any) -> None:
            for index, pair in enumerate(weights):
                if index % 4 == 0:
                    handed_over.append([])
                handed_over[-1].append(pair)

        async def receive_weight_batches(self) -> Any:
            while handed_over:
                yield handed_over.popleft()

    return HandedOver()
