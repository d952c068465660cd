"""One refit while it lasts: weights go into the policy, and into the drafter as far as they are complete."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ..config import Settings
from ..drafter.formats import format_named
from ..errors import UnsupportedError
from .arrival import Arrival
from .parcels import Parcels
from .requantizer import Requantizer
from .twin import Twin

QUANTIZER_ERRORS = (RuntimeError, ValueError, MemoryError, UnsupportedError)
"""What re-quantization may die of (no memory, no kernel, a fault) while the policy is well."""


class RefitSession:
    """From the first weight that changes to the last."""

    def __init__(
        self,
        target: Any,
        twin: Twin,
        requantizer: Requantizer,
        settings: Settings,
        whole: bool,
        deltas: bool = False,
    ) -> None:
        """`whole`: every tensor of the policy is to come through `load`. `deltas`: as changes, not as weights."""
        self._requantizer = requantizer
        self._whole = whole
        self._deltas = deltas
        self._strict = settings.strict
        self._arrival = Arrival(target, twin.quantized)
        self._parcels: Parcels | None = None
        if settings.refit.quantize_on == "trainer":
            self._parcels = Parcels(target, twin.quantized, format_named(settings.drafter.format))
        self._quantizes_at_once = settings.refit.refresh == "every"
        self._problems: list[str] = []
        requantizer.start()

    def load(self, load: Callable[..., Any], weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
        """Hand a bucket of `weights` to the policy's `load_weights`, and quantize the layers that it completed.

        Only once the whole bucket is loaded: a loader may take a tensor and copy it later. Of changes nothing can be
        told before the last.
        """
        if self._deltas:
            return load(weights, *args, **kwargs)
        if self._parcels is not None:
            weights = self._parcels.split_off(weights)
        answer = load(self._arrival.watch(weights), *args, **kwargs)
        complete = self._arrival.take_complete()
        try:
            if self._parcels is not None:
                self._requantizer.fill(self._parcels.take_complete())
            elif self._quantizes_at_once:
                self._requantizer.quantize(complete)
        except QUANTIZER_ERRORS as error:  # the policy goes on without its drafter
            if self._strict:
                raise
            self._problems.append(f"re-quantization raised {type(error).__name__}: {error}")
        return answer

    def problems(self) -> list[str]:
        """Why no drafter can be made from what arrived, in words; empty if one can. Waits for the device."""
        found = self._problems + self._arrival.problems(self._whole)
        return found + (self._parcels.problems() if self._parcels is not None else [])
