"""Quantizes layers of the policy into the drafter, beside the stream on which weights arrive."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from vllm.config import VllmConfig, set_current_vllm_config

from ..clock import Clock
from ..drafter.formats import Quantized
from .arrival import not_finite
from .twin import DraftLayer


class Requantizer:
    """Refills a drafter layer by layer, in any order; every layer once per refit."""

    def __init__(self, layers: Sequence[DraftLayer], vllm_config: VllmConfig, device: torch.device) -> None:
        self._layers = layers
        self._config = vllm_config
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._finite: dict[str, Tensor] = {}
        self._clock = Clock()
        self.seconds = 0.0
        """Wall time that this refit has spent here: without what the device did beside the arrival of weights."""

    def start(self) -> None:
        """A refit begins: no layer is up to date."""
        self._finite, self.seconds = {}, 0.0

    @torch.inference_mode()
    def quantize(self, layers: Sequence[DraftLayer]) -> None:
        """Refill `layers` from weights whose last copy is queued on the present stream. Does not wait."""
        with self._timed(), self._beside(), self._configured():
            for layer in layers:
                self._finite[layer.path] = layer.refill()

    @torch.inference_mode()
    def fill(self, filled: Sequence[tuple[DraftLayer, list[Quantized]]]) -> None:
        """Put in weights that were quantized elsewhere. Does not wait."""
        with self._timed(), self._beside(), self._configured():
            for layer, matrices in filled:
                self._finite[layer.path] = layer.fill(matrices)
                self._keep_until_used(matrices)

    def _keep_until_used(self, matrices: list[Quantized]) -> None:
        """They were allocated on another stream, which could otherwise reuse their memory too early."""
        if self._stream is not None:
            for tensor in (tensor for matrix in matrices for tensor in matrix if tensor is not None):
                tensor.record_stream(self._stream)

    def finish(self) -> list[str]:
        """Refill what is left, and wait. Returns the paths of layers that hold NaN or infinity."""
        self.quantize([layer for layer in self._layers if layer.path not in self._finite])
        with self._timed():
            if self._stream is not None:
                torch.cuda.current_stream().wait_stream(self._stream)
            return not_finite(self._finite)

    def _configured(self) -> AbstractContextManager[None]:
        """vLLM sets its configuration only while it loads a model, but some kernels are made of it: FP8's."""
        return set_current_vllm_config(self._config)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self._clock()
        try:
            yield
        finally:
            self.seconds += self._clock() - started

    @contextmanager
    def _beside(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
