"""What of a refit has arrived: which layers are complete, and what is wrong with the rest."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

from .twin import DraftLayer

Part = tuple[str, ...]
"""Hugging Face names under which one piece of a layer may arrive: a tied head comes as the embedding."""


class Arrival:
    """The tensors of one refit, as vLLM's `load_weights` consumes them."""

    def __init__(self, target: Any, layers: Sequence[DraftLayer]) -> None:
        parts = {layer.path: parts_of(target, layer) for layer in layers}
        self._layers = {layer.path: layer for layer in layers}
        self._missing = {path: set(own) for path, own in parts.items()}
        self._owners: dict[str, list[tuple[str, Part]]] = defaultdict(list)
        for path, own in parts.items():
            for part in own:
                for name in part:
                    self._owners[name].append((path, part))
        self._seen: set[str] = set()
        self._complete: list[DraftLayer] = []
        self._finite: dict[str, Tensor] = {}
        self._problems: list[str] = []

    def watch(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass `weights` on and take note of them."""
        for name, tensor in weights:
            self._note(name, tensor)
            yield name, tensor

    def take_complete(self) -> list[DraftLayer]:
        """Layers whose last part arrived since the last call. Ask only once what was watched is loaded."""
        taken, self._complete = self._complete, []
        return taken

    def problems(self, whole: bool) -> list[str]:
        """Why no drafter can be made from this refit, in words; empty if one can. Waits for the device.

        Args:
            whole: whether every tensor was to arrive. Nothing is missed where no known name arrived at all: those
                weights came another way.
        """
        found = list(self._problems)
        if whole and not self._seen.isdisjoint(self._owners):
            found += [
                f"tensor '{part[0]}' did not arrive" for parts in self._missing.values() for part in sorted(parts)
            ]
        return found + [f"tensor '{name}' holds NaN or infinity" for name in not_finite(self._finite)]

    def _note(self, name: str, tensor: Tensor) -> None:
        if name in self._seen:
            self._problems.append(f"tensor '{name}' arrived twice")
        self._seen.add(name)
        if not tensor.is_floating_point():
            self._problems.append(f"tensor '{name}' has type {tensor.dtype}, expected a floating type")
        elif name not in self._owners:  # those of quantized layers are looked at while they are quantized
            self._finite[name] = torch.isfinite(tensor).all()
        for path, part in self._owners.get(name, ()):
            if part in self._missing[path]:
                self._missing[path].remove(part)
                if not self._missing[path]:
                    self._complete.append(self._layers[path])


def parts_of(target: Any, layer: DraftLayer) -> list[Part]:
    """The pieces that a quantized layer of the policy `target` is loaded from."""
    packed = getattr(target, "packed_modules_mapping", {})
    above, _, own = layer.path.rpartition(".")
    if isinstance(layer.source, RoutedExperts):
        return list(_pieces_of_experts(above, layer.source))
    if own in packed:
        return [(f"{above}.{piece}.weight",) for piece in packed[own]]
    shared = [name for name, tensor in target.named_parameters(remove_duplicate=False) if tensor is layer.source.weight]
    return [tuple(dict.fromkeys([f"{layer.path}.weight", *shared]))]


def _pieces_of_experts(path: str, experts: RoutedExperts) -> Iterator[Part]:
    """Every matrix of every expert, alone or in one tensor with the others."""
    gate, up, down = experts.ckpt_gate_proj_name, experts.ckpt_up_proj_name, experts.ckpt_down_proj_name
    for expert in range(experts.moe_config.num_logical_experts):
        for name, fused in ((gate, "gate_up_proj"), (up, "gate_up_proj"), (down, "down_proj")):
            yield f"{path}.{expert}.{name}.weight", f"{path}.{fused}"


def not_finite(flags: dict[str, Tensor]) -> list[str]:
    """Names whose flag is false. Waits for the device once, not once per flag."""
    if not flags:
        return []
    answers = torch.stack([flag.reshape(()) for flag in flags.values()]).tolist()
    return [name for name, fine in zip(flags, answers, strict=True) if not fine]
