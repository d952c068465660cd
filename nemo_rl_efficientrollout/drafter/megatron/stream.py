"""Sends the quantized policy: from every rank's shards, the whole drafter on every rank, one layer at a time.

Ranks tell each other once what they hold. Then, for every layer, each rank lays its quantized pieces end to end as
bytes; one gather over the layer's ranks and one broadcast over pipeline stages bring them to everyone, who puts them
together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..formats import Format
from ..packing import blank, named_parts, parts
from .groups import Groups
from .linears import device_of
from .shards import Place, Shard, find_shards, quantize_shard

ALIGNMENT = 16
"""Bytes: a part starts where any type may."""


class Entry(NamedTuple):
    """What one rank holds of one weight."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, int]
    place: Place

    @classmethod
    def of(cls, shard: Shard) -> "Entry":
        return cls(shard.name, shard.parameter.dtype, shard.shape, shard.place)

    def to_json(self) -> list:
        return [self.name, str(self.dtype).removeprefix("torch."), self.shape, self.place]

    @classmethod
    def from_json(cls, value: list) -> "Entry":
        name, dtype, (rows, columns), place = value
        return cls(name, getattr(torch, dtype), (rows, columns), Place(*place))


@dataclass(frozen=True, slots=True)
class Bundle:
    """The weights that travel together: of one layer, its experts or everything else; or the output head."""

    stage: int
    """Of the pipeline, that has them."""
    layer: int | None
    is_expert: bool
    entries: list[list[Entry]]
    """By the rank, of those that share the weights."""


class DrafterStream:
    """The quantized policy as a refit stream, made anew from the policy's weights each time it is iterated.

    Yields (name, tensor) of whole weights on every rank, named as `drafter.packing` says, on the model's device. Holds
    one layer at a time: its quantized bytes, at most twice over, and one weight. Building it and iterating it are
    collective over all groups, so every rank must exhaust it.

    Args:
        model: this rank's GPTModel, wrapped or not, or the chunks of a virtual pipeline; on the device of the groups.
        vocab_size: rows of the output head without Megatron's padding; None leaves the head to the engine.
        groups: by default those of `megatron.core.parallel_state`.

    Raises:
        UnsupportedError: on every rank alike, if one of them does not understand a module, or blocks would be cut.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Module],
        format: Format,
        vocab_size: int | None,
        groups: Groups | None = None,
    ) -> None:
        chunks = [model] if isinstance(model, nn.Module) else list(model)
        self._format = format
        self._groups = Groups.of_megatron() if groups is None else groups
        self._device = device_of(chunks)
        refusal: str | None = None
        shards: list[Shard] = []
        try:
            shards = find_shards(chunks, format, self._groups, vocab_size)
        except UnsupportedError as error:  # raised below, where the other ranks do not wait for this one
            refusal = str(error)
        self._bundles = self._agree(shards, refusal)
        self._shards: dict[tuple[int | None, bool], list[Shard]] = defaultdict(list)
        for shard in shards:
            self._shards[shard.layer, shard.is_expert].append(shard)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for bundle in self._bundles:
            yield from self._assemble(bundle, self._exchange(bundle))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """[N, K] of every weight that is sent, by its Hugging Face name."""
        return {name: entry.shape for bundle in self._bundles for name, entry in _weights(bundle).items()}

    def blanks(self) -> Iterator[tuple[str, Tensor]]:
        """What iterating yields, in the same order, as tensors without storage: nothing is quantized, no rank asked."""
        for bundle in self._bundles:
            for name, entry in _weights(bundle).items():
                yield from named_parts(name, blank(self._format, *entry.shape, entry.dtype))

    def _agree(self, shards: list[Shard], refusal: str | None) -> list[Bundle]:
        """What travels, in which order: the same on every rank. Raises what any rank refuses."""
        stage_says = []
        for is_expert, ranks in ((False, self._groups.tensor), (True, self._groups.experts)):
            entries = [[shard.layer, Entry.of(shard).to_json()] for shard in shards if shard.is_expert is is_expert]
            stage_says.append(ranks.gather_json([refusal, entries], self._device))
        bundles: dict[tuple[int | None, bool], Bundle] = {}
        for stage, (dense, experts) in enumerate(self._groups.pipeline.gather_json(stage_says, self._device)):
            for is_expert, said in ((False, dense), (True, experts)):
                for rank, (refused, entries) in enumerate(said):
                    if refused is not None:
                        raise UnsupportedError(refused)
                    for layer, entry in entries:
                        blank_bundle = Bundle(stage, layer, is_expert, [[] for _ in said])
                        bundle = bundles.setdefault((layer, is_expert), blank_bundle)
                        bundle.entries[rank].append(Entry.from_json(entry))
        for bundle in bundles.values():
            _check_whole(bundle)
        return sorted(bundles.values(), key=lambda b: (b.layer is None, b.layer or 0, b.is_expert))

    def _exchange(self, bundle: Bundle) -> Tensor:
        """uint8 [ranks, bytes]: what every rank of the bundle holds of it."""
        longest = max(sum(size for *_, size in self._layout(entries)) for entries in bundle.entries)
        if bundle.stage == self._groups.pipeline.rank:
            ranks = self._groups.experts if bundle.is_expert else self._groups.tensor
            gathered = ranks.gather(self._lay_out(bundle, longest))
        else:
            gathered = torch.empty(len(bundle.entries), longest, dtype=torch.uint8, device=self._device)
        return self._groups.pipeline.broadcast(gathered, bundle.stage)

    def _lay_out(self, bundle: Bundle, length: int) -> Tensor:
        buffer = torch.zeros(length, dtype=torch.uint8, device=self._device)
        at = 0
        for shard in self._shards[bundle.layer, bundle.is_expert]:
            for tensor in parts(self._format, quantize_shard(shard, self._format)).values():
                buffer[at : at + tensor.nbytes] = tensor.contiguous().view(torch.uint8).flatten()
                at += _aligned(tensor.nbytes)
        return buffer

    def _layout(self, entries: list[Entry]) -> Iterator[tuple[Entry, str, Tensor, int]]:
        """Every part of a rank's entries: its name, its shape and type, the bytes it takes."""
        for entry in entries:
            blanks = blank(self._format, entry.place.rows, entry.place.columns, entry.dtype)
            for part, tensor in blanks.items():
                yield entry, part, tensor, _aligned(tensor.nbytes)

    def _assemble(self, bundle: Bundle, gathered: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Whole weights from everyone's bytes."""
        pieces: dict[str, list[tuple[Entry, str, Tensor]]] = defaultdict(list)
        for entries, row in zip(bundle.entries, gathered, strict=True):
            at = 0
            for entry, part, like, size in self._layout(entries):
                tensor = row[at : at + like.nbytes].view(like.dtype).view(like.shape)
                pieces[entry.name].append((entry, part, tensor))
                at += size
        for name, held in pieces.items():
            first = held[0][0]
            blanks = blank(self._format, *first.shape, first.dtype)
            whole = {part: torch.empty_like(like, device=self._device) for part, like in blanks.items()}
            for entry, part, tensor in held:
                down, across = _corner(entry, whole[part])
                whole[part][down : down + tensor.shape[0], across : across + tensor.shape[1]] = tensor
            yield from named_parts(name, whole)


def _weights(bundle: Bundle) -> dict[str, Entry]:
    """What the first rank that has some of a weight holds of it, by the name, in the order of the stream."""
    first: dict[str, Entry] = {}
    for entry in (entry for entries in bundle.entries for entry in entries):
        first.setdefault(entry.name, entry)
    return first


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _corner(entry: Entry, whole: Tensor) -> tuple[int, int]:
    """Where a piece of one part belongs in the whole part, whose elements stand for one weight, eight, or a block each.
    Pieces start where blocks do; a block that spans all ranks starts at 0 for each of them."""
    (rows, columns), place = entry.shape, entry.place
    return place.row * whole.shape[0] // rows, place.column * whole.shape[1] // columns


def _check_whole(bundle: Bundle) -> None:
    """Raises UnsupportedError where ranks do not hold every element of a weight once."""
    elements: dict[str, int] = defaultdict(int)
    wholes: dict[str, int] = {}
    for entry in (entry for entries in bundle.entries for entry in entries):
        elements[entry.name] += entry.place.rows * entry.place.columns
        wholes[entry.name] = entry.shape[0] * entry.shape[1]
    for name, held in elements.items():
        if held != wholes[name]:
            raise UnsupportedError(
                f"'{name}': {len(bundle.entries)} ranks hold {held} of its {wholes[name]} elements; "
                "are these the process groups that the model was built with?"
            )
