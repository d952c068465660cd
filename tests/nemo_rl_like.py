"""NeMo-RL's side of a refit, for engines without NeMo-RL."""

from types import SimpleNamespace
from typing import Any

import torch

Weights = dict[str, torch.Tensor]
BUCKETS = 5
"""In which a policy's weights arrive."""


def measured(method: Any) -> Any:
    """NeMo-RL's decorator for its profiles, which does not hand the method's name on."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class NemoRlLike:
    """What NeMo-RL adds to vLLM's worker, cut down to how it touches weights: same names, same answers."""

    model_runner: Any
    checkpoint_engine: Any = None

    @measured
    def update_weights_via_ipc_zmq(self, weights: Weights, fail_after: int = BUCKETS) -> bool:
        try:
            for index in range(BUCKETS):
                if index == fail_after:
                    raise ConnectionError("the trainer went away")
                self.model_runner.model.load_weights(list(weights.items())[index::BUCKETS])
        except ConnectionError:
            return False
        return True

    def update_weights_from_collective(self, weights: Weights) -> bool:
        return self.update_weights_via_ipc_zmq(weights)

    def nccl_reshard_refit(self, weights: Weights) -> bool:
        return self._write_some_past_the_loader(weights)

    def _write_some_past_the_loader(self, weights: Weights) -> bool:
        live, direct = dict(self.model_runner.model.named_parameters()), ("down_proj", "o_proj")
        with torch.no_grad():
            for name, tensor in weights.items():
                if any(part in name for part in direct):
                    live[name].copy_(tensor)
        misc = [(name, tensor) for name, tensor in weights.items() if not any(part in name for part in direct)]
        self.model_runner.model.load_weights(misc)
        return True

    def update_weights_from_checkpoint_engine(self, weights: Weights) -> bool:
        self.checkpoint_engine = SimpleNamespace(shard_expert_weights=True)
        return self._write_some_past_the_loader(weights)

    def prepare_sparse_delta_refit_info(self, weights: Weights) -> list[str]:
        self.model_runner.model.load_weights(list(weights.items()))
        return []

    def update_weights_from_decoded_sparse_payload(self, name: str, tensor: torch.Tensor) -> dict[str, Any]:
        with torch.no_grad():
            if "norm" in name:  # loaders are handed NaN where nothing changed, and kept from writing it
                self.model_runner.model.load_weights([(name, torch.full_like(tensor, torch.nan))])
            dict(self.model_runner.model.named_parameters())[name].copy_(tensor)
        return {}

    def finish_sparse_delta_refit(self) -> dict[str, Any]:
        return {}
