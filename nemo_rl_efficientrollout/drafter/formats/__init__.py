"""Number formats of the drafter, one file each: in torch: the specification that kernels must match bit for bit."""

from ...errors import nearest
from .bf16 import Bf16
from .format import Block, Extent, Format, Quantized
from .fp8 import Fp8, Fp8Block
from .int4 import Int4, Int4Symmetric
from .int8 import Int8

FORMATS: dict[str, Format] = {f.name: f for f in (Int4(), Int4Symmetric(), Int8(), Fp8(), Fp8Block(), Bf16())}
"""By the name that `drafter.format` takes."""

__all__ = ["FORMATS", "Block", "Extent", "Format", "Quantized", "format_named"]


def format_named(name: str) -> Format:
    """The format of that name. Raises ValueError with the known names."""
    if name not in FORMATS:
        raise ValueError(f"unknown format '{name}'{nearest(name, list(FORMATS))}; known: {', '.join(FORMATS)}")
    return FORMATS[name]
