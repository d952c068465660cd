"""Drafter weights that the trainer quantized: they come in the policy's refit stream under names of their own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from ..drafter.formats import Format, Quantized
from ..drafter.packing import PREFIX, StreamReader
from ..errors import UserError
from .arrival import Part, parts_of
from .twin import DraftLayer


class Parcels:
    """Puts the pieces of fused layers together: q, k and v; gate and up; the matrices of all experts."""

    def __init__(self, target: Any, layers: Sequence[DraftLayer], form: Format) -> None:
        self._format = form
        self._target = target
        self._packed: dict[str, list[str]] = getattr(target, "packed_modules_mapping", {})
        self._reader = StreamReader(form)
        self._layers = {layer.path: layer for layer in layers}
        self._parts = {layer.path: parts_of(target, layer) for layer in layers}
        self._owner = {part[0]: path for path, parts in self._parts.items() for part in parts}
        self._arrived: dict[str, dict[str, Quantized]] = {}
        self._complete: list[tuple[DraftLayer, list[Quantized]]] = []
        self._problems: list[str] = []

    def split_off(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass the policy's tensors on, keep the drafter's."""
        for name, tensor in weights:
            if name.startswith(PREFIX):
                self._take(name, tensor)
            else:
                yield name, tensor

    def take_complete(self) -> list[tuple[DraftLayer, list[Quantized]]]:
        """Layers whose last piece arrived since the last call, with what `DraftLayer.fill` takes."""
        taken, self._complete = self._complete, []
        return taken

    def problems(self) -> list[str]:
        """What is wrong with what arrived, in words."""
        found = list(self._problems)
        try:
            self._reader.finish()
        except UserError as error:
            found.append(str(error))
        return found

    def _take(self, name: str, tensor: Tensor) -> None:
        try:
            whole = self._reader.add(name, tensor.clone())  # the transport's buffer is used again
        except UserError as error:
            self._problems.append(str(error))
            return
        if whole is None:
            return
        weight, quantized = whole
        path = self._owner.get(weight)
        if path is None and self._is_shared(weight):
            return  # the trainer does not know which layers this engine's kernels do not take
        if path is None:
            self._problems.append(f"'{PREFIX}{weight}' belongs to no quantized layer of this drafter")
            return
        pieces = self._arrived.setdefault(path, {})
        pieces[weight] = quantized
        parts = self._parts[path]
        if len(pieces) == len(parts):
            self._hand_over(self._layers[path], parts)
            del self._arrived[path]

    def _is_shared(self, weight: str) -> bool:
        """Whether this weight without an owner is of a layer that the drafter has from the policy."""
        above, _, own = weight.removesuffix(".weight").rpartition(".")
        packed = next((name for name, pieces in self._packed.items() if own in pieces), own)
        modules = dict(self._target.named_modules(remove_duplicate=False))
        return f"{above}.{packed}".lstrip(".") in modules

    def _hand_over(self, layer: DraftLayer, parts: list[Part]) -> None:
        matrices = self._put_together(layer, [self._arrived[layer.path][part[0]] for part in parts])
        for matrix, weight in zip(matrices, layer.weights(), strict=True):
            if matrix.data.shape != weight.shape:
                self._problems.append(
                    f"the trainer's drafter has {list(matrix.data.shape)} for '{layer.path}', expected"
                    f" {list(weight.shape)}"
                )
                return
        self._complete.append((layer, matrices))

    def _put_together(self, layer: DraftLayer, pieces: list[Quantized]) -> list[Quantized]:
        if not isinstance(layer.source, RoutedExperts):
            whole = _stack(pieces)
            return [self._padded(whole, layer.source) if isinstance(layer.source, ParallelLMHead) else whole]
        gate_up = [_stack(list(pair)) for pair in zip(pieces[0::3], pieces[1::3], strict=True)]
        return [*gate_up, *pieces[2::3]]

    def _padded(self, quantized: Quantized, head: Any) -> Quantized:
        """With the rows of zeros by which vLLM pads a vocabulary."""
        missing = head.num_embeddings_padded - head.org_vocab_size
        if not missing:
            return quantized
        return _stack([quantized, self._format.quantize(head.weight.new_zeros(missing, head.weight.shape[1]))])


def _stack(pieces: Sequence[Quantized]) -> Quantized:
    """Rows of several weights as one; none of them ends within a block."""
    zeros = [piece.zero for piece in pieces if piece.zero is not None]
    return Quantized(
        torch.cat([piece.data for piece in pieces]),
        torch.cat([piece.scale for piece in pieces]),
        torch.cat(zeros) if zeros else None,
    )
