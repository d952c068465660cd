"""Quantizes what one rank holds, so that it is bit for bit a part of the quantized gathered weight.

Where a scale's block spans ranks, the ranks agree on the block's extent first; a block may not otherwise cross the
border between ranks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..formats import Bf16, Extent, Format, Quantized
from ..packing import PER_WORD, is_packed
from .groups import Groups, Ranks
from .linears import COLUMN, linears


class Place(NamedTuple):
    """Which part of a gathered weight: its upper left corner and size."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A rank's part of one Hugging Face weight, not quantized yet."""

    name: str
    layer: int | None
    """Counted from 0 over all pipeline stages; None for the output head."""
    is_expert: bool
    shape: tuple[int, int]
    """Of the gathered weight."""
    place: Place
    parameter: Tensor
    """The local Megatron weight, of which these `runs` of rows are the shard."""
    runs: tuple[tuple[int, int], ...]
    ranks: Ranks

    def weight(self) -> Tensor:
        """[rows, columns] of the place, as the policy has it now; copied only where the rows are not in one piece."""
        rows = [self.parameter.detach()[start:stop] for start, stop in self.runs]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


class Piece(NamedTuple):
    """A rank's quantized part of one Hugging Face weight."""

    name: str
    shape: tuple[int, int]
    place: Place
    quantized: Quantized


def find_shards(
    model: nn.Module | Iterable[nn.Module], format: Format, groups: Groups, vocab_size: int | None
) -> list[Shard]:
    """What this rank holds of every quantizable weight, in the order of the model; arguments as of `linears`. Raises
    UnsupportedError naming a module that is not understood, or a weight whose blocks would be cut."""
    if isinstance(format, Bf16):
        raise UnsupportedError("format bf16 drafts with the policy's own weights: there is nothing to send")
    shards: list[Shard] = []
    for linear in linears(model, groups, vocab_size):
        rows, columns = linear.parameter.shape
        ranks = linear.ranks
        if linear.split == COLUMN:
            held = [linear.stack.held(rank * rows, (rank + 1) * rows) for rank in range(ranks.size)]
            first_column, whole = 0, columns
        else:
            held = [linear.stack.held(0, rows)] * ranks.size
            first_column, whole = ranks.rank * columns, columns * ranks.size
        for mine, everyone in zip(held[ranks.rank], zip(*held, strict=True), strict=True):
            firsts = tuple(theirs.first for theirs in everyone if theirs.runs)
            height = sum(stop - start for start, stop in mine.runs)
            place, shape = Place(mine.first, first_column, height, columns), (mine.total, whole)
            path = f"'{mine.name}' (Megatron's {linear.path})"
            _check(path, format, shape, place, firsts, ranks.size)
            if mine.runs:
                identity = (mine.name, linear.layer, linear.is_expert, shape, place)
                shards.append(Shard(*identity, linear.parameter, mine.runs, ranks))
    return shards


def quantize_shard(shard: Shard, format: Format) -> Quantized:
    """Equal to the shard's part of `format.quantize` of the gathered weight. Collective over the shard's ranks where
    its blocks span them."""
    weight = shard.weight()
    extent = format.extent(weight)
    if _spans(format, shard.shape, shard.place):
        # A NaN can be lost in a maximum over ranks, an infinity cannot: the scale shows it either way.
        both = torch.stack([-extent.low, extent.high]).nan_to_num(torch.inf, torch.inf, -torch.inf)
        low, high = shard.ranks.largest(both)
        extent = Extent(-low, high)
    return format.encode(weight, extent)


def quantize_shards(
    model: nn.Module | Iterable[nn.Module], format: Format, groups: Groups, vocab_size: int | None
) -> Iterator[Piece]:
    """This rank's quantized pieces, one after the other; arguments and errors as of `find_shards`. Collective over the
    tensor-parallel ranks, which must all exhaust it."""
    for shard in find_shards(model, format, groups, vocab_size):
        yield Piece(shard.name, shard.shape, shard.place, quantize_shard(shard, format))


def _block_width(format: Format, columns: int) -> int:
    return min(format.block(columns).columns, columns)


def _spans(format: Format, shape: tuple[int, int], place: Place) -> bool:
    """Whether one block runs across all columns, of which a rank holds only some."""
    return place.columns < shape[1] == _block_width(format, shape[1])


def _check(
    path: str, format: Format, shape: tuple[int, int], place: Place, firsts: tuple[int, ...], ranks: int
) -> None:
    height, width = format.block(shape[1]).rows, _block_width(format, shape[1])
    cure = "use fewer tensor-parallel ranks, another format, or let the engine quantize the gathered weights"
    if width < shape[1] and place.columns < shape[1] and place.columns % width:
        raise UnsupportedError(
            f"{path}: {format.name} shares a scale over {width} of its {shape[1]} columns, but each of {ranks} "
            f"tensor-parallel ranks holds {place.columns}; {cure}"
        )
    cut = next((first for first in firsts if first % height), None)
    if cut is not None:
        raise UnsupportedError(
            f"{path}: {format.name} shares a scale over {height} rows, but one of {ranks} tensor-parallel ranks "
            f"starts at row {cut}; {cure}"
        )
    if is_packed(format) and place.columns % PER_WORD:
        raise UnsupportedError(
            f"{path}: {place.columns} columns on a rank cannot be packed {PER_WORD} by {PER_WORD}; {cure}"
        )
