"""Which rows of which Hugging Face weight a rank's rows of a Megatron weight are.

Megatron stacks matrices: query, key and value of every query group; gate and up of every tensor-parallel rank;
vocabulary and padding. All of them are *bands* of rows that repeat down the gathered weight. A rank holds one range of
rows of that, and therefore one range of rows of every band's own matrix, though not always in one piece.
"""

from typing import NamedTuple


class Band(NamedTuple):
    """Neighbouring rows of one Hugging Face weight. Without a name they are padding, and dropped."""

    name: str | None
    rows: int


class Held(NamedTuple):
    """What one rank holds of one Hugging Face weight."""

    name: str
    total: int
    """Rows of the gathered weight."""
    first: int
    """Its first row that is held here."""
    runs: tuple[tuple[int, int], ...]
    """(start, stop) rows of the local Megatron weight, in the order of the gathered weight; may be empty."""


class Stack(NamedTuple):
    """The rows of a gathered Megatron weight: these bands, `repeat` times."""

    bands: tuple[Band, ...]
    repeat: int = 1

    @property
    def rows(self) -> int:
        return self.repeat * sum(band.rows for band in self.bands)

    def held(self, start: int, stop: int) -> list[Held]:
        """What a rank with rows `start` to `stop` of the gathered Megatron weight holds of every named band."""
        period = sum(band.rows for band in self.bands)
        answer: list[Held] = []
        above = 0
        for name, height in self.bands:
            if name is not None:
                cycle, within = divmod(start, period)
                first = cycle * height + min(max(within - above, 0), height)
                pieces = [(max(top, start), min(top + height, stop)) for top in range(above, self.rows, period)]
                runs = tuple((top - start, bottom - start) for top, bottom in pieces if top < bottom)
                answer.append(Held(name, self.repeat * height, first, runs))
            above += height
        return answer
