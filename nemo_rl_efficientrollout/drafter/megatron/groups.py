"""Which ranks hold parts of the same thing, and what they say to each other."""

import json
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process group; without one, this rank alone. Every call is collective."""

    group: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def size(self) -> int:
        return 1 if self.group is None else dist.get_world_size(self.group)

    def largest(self, values: Tensor) -> Tensor:
        """Element by element the largest over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def gather(self, data: Tensor) -> Tensor:
        """[size, n] from every rank's [n]."""
        if self.size == 1:
            return data[None]
        gathered = data.new_empty(self.size, *data.shape)
        dist.all_gather(list(gathered.unbind()), data, group=self.group)
        return gathered

    def broadcast(self, data: Tensor, owner: int) -> Tensor:
        """`data` of the rank `owner` of this group, written into everyone's."""
        if self.group is not None and self.size > 1:
            dist.broadcast(data, dist.get_global_rank(self.group, owner), group=self.group)
        return data

    def gather_json(self, value: Any, device: torch.device) -> list[Any]:
        """Every rank's value, through tensors on `device`."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.gather(torch.tensor([len(text)], device=device)).flatten().tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
        padded[: len(text)] = text
        texts = self.gather(padded).cpu()
        return [json.loads(row[:length].numpy().tobytes()) for row, length in zip(texts, lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a Megatron trainer that share a policy; data-parallel replicas each do the same."""

    tensor: Ranks = field(default_factory=Ranks)
    """Over which attention, dense layers, shared experts and vocabulary are split."""
    expert_tensor: Ranks = field(default_factory=Ranks)
    """Over which the matrices of one expert are split."""
    experts: Ranks = field(default_factory=Ranks)
    """Tensor- and expert-parallel ranks together that hold all experts of a layer."""
    pipeline: Ranks = field(default_factory=Ranks)

    @classmethod
    def of_megatron(cls) -> "Groups":
        """Those that `megatron.core.parallel_state` was initialized with."""
        state = import_module("megatron.core.parallel_state")
        return cls(
            Ranks(state.get_tensor_model_parallel_group()),
            Ranks(state.get_expert_tensor_parallel_group()),
            Ranks(state.get_expert_tensor_and_model_parallel_group()),
            Ranks(state.get_pipeline_model_parallel_group()),
        )
