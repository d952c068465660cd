"""Quantizes layers of the policy into the drafter, beside the stream on which weights arrive."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .arrival import not_finite
from .twin import DraftLayer


class Requantizer:
    """Refills a drafter layer by layer, in any order; every layer once per refit."""

    def __init__(self, layers: Sequence[DraftLayer], device: torch.device) -> None:
        self._layers = layers
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._finite: dict[str, Tensor] = {}

    def start(self) -> None:
        """A refit begins: no layer is up to date."""
        self._finite = {}

    @torch.inference_mode()
    def quantize(self, layers: Sequence[DraftLayer]) -> None:
        """Refill `layers` from weights whose last copy is queued on the present stream. Does not wait."""
        with self._beside():
            for layer in layers:
                self._finite[layer.path] = layer.refill()

    def finish(self) -> list[str]:
        """Refill what is left, and wait. Returns the paths of layers that hold NaN or infinity."""
        self.quantize([layer for layer in self._layers if layer.path not in self._finite])
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        return not_finite(self._finite)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
