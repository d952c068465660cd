"""How a quantized weight travels in a refit stream: its parts, their names, and four-bit codes eight to an int32.

A weight `model.layers.0.mlp.up_proj.weight` becomes `efficientrollout.model.layers.0.mlp.up_proj.weight.codes`,
`.scale` and, where the format has zero points, `.zero`.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

from ..errors import UserError, nearest
from .formats import Format, Quantized

PREFIX = "efficientrollout."
PARTS = ("codes", "scale", "zero")
PER_WORD = 8
"""Four-bit codes in an int32."""


def pack_int4(codes: Tensor) -> Tensor:
    """int32 [N, K / 8] from codes 0 to 15, uint8 or int8 [N, K]; the lowest four bits are the first along K, as in
    compressed-tensors' `weight_packed`. Raises ValueError where 8 does not divide K."""
    rows, columns = codes.shape
    if columns % PER_WORD:
        raise ValueError(f"codes [{rows}, {columns}] cannot be packed: {PER_WORD} must divide the columns")
    pairs = codes.contiguous().view(-1).view(torch.int16)  # two bytes become one, ten times as fast as by int32
    return (pairs >> 4).bitwise_or_(pairs).to(torch.int8).view(torch.int32).view(rows, columns // PER_WORD)


def unpack_int4(words: Tensor) -> Tensor:
    """Undo `pack_int4`: uint8 [N, K] from int32 [N, K / 8]."""
    shifts = torch.arange(0, 4 * PER_WORD, 4, dtype=torch.int32, device=words.device)
    return ((words[..., None] >> shifts) & 15).to(torch.uint8).flatten(1)


def is_packed(format: Format) -> bool:
    """Whether codes of this format travel packed."""
    return format.bits == 4


def parts(format: Format, quantized: Quantized) -> dict[str, Tensor]:
    """What travels, by part: codes [N, K] or packed int32 [N, K / 8], scale, and zero if there is one."""
    codes = pack_int4(quantized.data) if is_packed(format) else quantized.data
    named = zip(PARTS, (codes, quantized.scale, quantized.zero), strict=True)
    return {part: tensor for part, tensor in named if tensor is not None}


@cache
def blank(format: Format, rows: int, columns: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Shapes and types of the parts of a weight [rows, columns] of type `dtype`, as tensors without storage."""
    return parts(format, format.quantize(torch.empty(rows, columns, dtype=dtype, device="meta")))


def named_parts(name: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The stream's entries for the weight `name`."""
    for part, tensor in tensors.items():
        yield f"{PREFIX}{name}.{part}", tensor


def without_drafter(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The policy's own entries of a refit stream."""
    return ((name, tensor) for name, tensor in stream if not name.startswith(PREFIX))


class StreamReader:
    """Puts weights together from a stream's entries, in whatever order they come."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self._partial: dict[str, dict[str, Tensor]] = {}
        self._complete: set[str] = set()
        self._expected = set(blank(format, 32, 32, torch.bfloat16))

    def add(self, name: str, tensor: Tensor) -> tuple[str, Quantized] | None:
        """Take one entry. Returns the weight's Hugging Face name and the weight, codes unpacked, with its last part.
        Raises UserError for an unknown name or part, a part sent twice, or a wrong shape or type."""
        weight, part = self._split(name)
        if weight in self._complete or part in self._partial.get(weight, {}):
            raise UserError(f"'{name}' came twice in one refit: send every part once")
        held = self._partial.setdefault(weight, {})
        held[part] = tensor
        if set(held) != self._expected:
            return None
        self._check(weight, held)
        del self._partial[weight]
        self._complete.add(weight)
        codes = unpack_int4(held["codes"]) if is_packed(self.format) else held["codes"]
        return weight, Quantized(codes, held["scale"], held.get("zero"))

    def finish(self) -> None:
        """Call after the last entry. Raises UserError naming a weight that lacks parts."""
        for weight, held in self._partial.items():
            missing = ", ".join(f".{part}" for part in PARTS if part in self._expected - set(held))
            raise UserError(f"'{PREFIX}{weight}' came without {missing}: send every part of a weight in one refit")

    def _split(self, name: str) -> tuple[str, str]:
        weight, _, part = name.removeprefix(PREFIX).rpartition(".")
        if not name.startswith(PREFIX) or not weight:
            raise UserError(f"'{name}' is no drafter weight: '{PREFIX}<name>.<part>' expected")
        if part not in self._expected:
            known = ", ".join(f".{known}" for known in PARTS if known in self._expected)
            hint = nearest(part, self._expected)
            raise UserError(f"'{name}' ends in no part of format {self.format.name}{hint}; parts: {known}")
        return weight, part

    def _check(self, weight: str, held: dict[str, Tensor]) -> None:
        if held["codes"].dim() != 2 or not held["scale"].is_floating_point():
            raise UserError(f"'{PREFIX}{weight}': a matrix of codes and floating-point scales expected")
        rows, columns = held["codes"].shape
        columns *= PER_WORD if is_packed(self.format) else 1
        for part, wanted in blank(self.format, rows, columns, held["scale"].dtype).items():
            if (held[part].shape, held[part].dtype) != (wanted.shape, wanted.dtype):
                raise UserError(
                    f"'{PREFIX}{weight}.{part}' is {_describe(held[part])}, {_describe(wanted)} expected for "
                    f"{self.format.name} codes of [{rows}, {columns}]: is the trainer's format the engine's?"
                )


def read_stream(stream: Iterable[tuple[str, Tensor]], format: Format) -> dict[str, Quantized]:
    """Every weight of a whole stream, by its Hugging Face name. Raises UserError as `StreamReader` does."""
    reader = StreamReader(format)
    weights = dict(whole for name, tensor in stream if (whole := reader.add(name, tensor)) is not None)
    reader.finish()
    return weights


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
