"""A drafter from a Megatron-core policy: its shards are quantized where they are, and only codes and scales travel."""

from .groups import Groups, Ranks
from .shards import Piece, Place, quantize_shards
from .stream import DrafterStream

__all__ = ["DrafterStream", "Groups", "Piece", "Place", "Ranks", "quantize_shards"]
