"""The worker's part that outlives a step: the policy, its twin, and which version each has."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger

from ..config import KEY, read_settings
from ..errors import UnsupportedError
from .compat import cpu_weights
from .refit import Refit
from .twin import Twin, build_twin

logger = init_logger("vllm.efficientrollout")


class SelfSpeculation:
    """Owns the drafter of one model runner. Without a twin (it could not be built) the runner decodes plainly."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        self._config = vllm_config
        self._settings = read_settings(vllm_config.additional_config[KEY])  # type: ignore[index]
        self.refit = Refit()
        self.twin: Twin | None = None
        self._target: Any = None

    @property
    def ready(self) -> bool:
        """Whether drafting is allowed: a twin exists and was made from the policy's present weights."""
        return self.twin is not None and self.refit.fresh

    def adopt(self, target: nn.Module) -> None:
        """Build the twin of a loaded policy, and watch the policy's weights from now on."""
        self._target = target
        self._load_target = self._target.load_weights
        self._target.load_weights = self._load_and_mark_stale
        try:
            self.refit.rebuild(self._build)
        except (UnsupportedError, torch.OutOfMemoryError, MemoryError) as error:
            self.decode_plainly(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def decode_plainly(self, reason: str) -> None:
        """Give the drafter up for good. Raises UnsupportedError instead when the settings are strict."""
        self.twin = None
        if self._settings.strict:
            raise UnsupportedError(f"EfficientRollout cannot run and strict is set: {reason}")
        logger.warning("EfficientRollout is off, decoding plainly: %s", reason)

    def load_weights(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Refit: new weights into the policy, then into the drafter. Until both are done, γ is 0."""
        self._target.load_weights(named)
        cpu_weights.pack_again(self._target)
        self.requantize()

    def requantize(self) -> None:
        """Rebuild the drafter from the policy's present weights."""
        if self.twin is not None:
            self.refit.rebuild(self.twin.requantize)

    def _build(self) -> None:
        self.twin = build_twin(self._config, self._target, self._settings.drafter)

    def _load_and_mark_stale(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        self.refit.policy_changes()
        return self._load_target(weights, *args, **kwargs)
