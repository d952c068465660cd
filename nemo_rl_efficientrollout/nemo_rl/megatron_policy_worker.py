"""NeMo-RL's Megatron policy worker, whose refit stream ends with the drafter.

Ray imports this file in the trainer's environment; nothing else does. What every transport sends comes out of
`_iter_params_with_optional_kv_scales`, and what a receiver expects out of `prepare_refit_info`, both of
https://github.com/NVIDIA-NeMo/RL, nemo_rl/models/policy/workers/megatron_policy_worker.py.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterator
from typing import Any

import ray
from nemo_rl.models.policy.utils import get_runtime_env_for_policy_worker
from nemo_rl.models.policy.workers import megatron_policy_worker as stock
from torch import Tensor, dtype

from ..drafter.formats import format_named
from ..drafter.megatron import DrafterStream
from ..errors import SettingsError, UnsupportedError
from .expected import expect_parameters
from .trainer import BLOCK, CURE, WORKER, sender_settings

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

RefitInfo = dict[str, tuple[Any, dtype]]
"""Shape and type of every tensor of a refit, by its name, in the order of the stream."""


class MegatronPolicyWorkerImpl(stock.MegatronPolicyWorkerImpl):
    """As NeMo-RL's; at every refit it quantizes its shards and sends the drafter after the policy."""

    _drafter: DrafterStream | None = None
    """Until `prepare_refit_info` was called, there is none."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Raises SettingsError, before anything is loaded, where the drafter cannot travel as `config` says."""
        settings = sender_settings(config)
        if settings is None:
            raise SettingsError(
                f"{WORKER} sends a drafter, which {BLOCK} must ask for: set refit.quantize_on to 'trainer'"
            )
        self._drafter_settings = settings.drafter
        theirs = stock.MegatronPolicyWorkerImpl
        expect_parameters(theirs, "prepare_refit_info", "", CURE)  # a wrapper, whose own parameters say nothing
        expect_parameters(theirs, "_iter_params_with_optional_kv_scales", "kv_scales conversion_tasks", CURE)
        super().__init__(config, *args, **kwargs)

    def prepare_refit_info(self) -> RefitInfo:
        """NeMo-RL's, with the drafter's tensors, of which nothing is quantized yet. Collective.

        Raises:
            UnsupportedError: on every rank alike, where the model is not understood.
        """
        self._drafter = None  # the policy alone first, as the drafter is measured against it
        info: RefitInfo = super().prepare_refit_info()
        self._drafter = self._new_drafter(info)
        return info | {name: (tensor.shape, tensor.dtype) for name, tensor in self._drafter.blanks()}

    def _iter_params_with_optional_kv_scales(
        self, kv_scales: dict[str, float] | None = None, conversion_tasks: Any = None
    ) -> Iterator[tuple[str, Tensor]]:
        yield from super()._iter_params_with_optional_kv_scales(kv_scales, conversion_tasks)
        if self._drafter is not None:
            yield from self._drafter

    def _new_drafter(self, exported: RefitInfo) -> DrafterStream:
        """`exported`: what Megatron-Bridge makes of the policy, vocabulary padding removed."""
        rows = None
        if self._drafter_settings.lm_head:
            head = HEAD if HEAD in exported else EMBEDDING  # tied
            if head not in exported:
                raise UnsupportedError(f"the policy exports neither '{HEAD}' nor '{EMBEDDING}': {CURE}")
            rows = exported[head][0][0]
        drafter = DrafterStream(self.model, format_named(self._drafter_settings.format), rows)
        for name, shape in drafter.shapes().items():
            if name != HEAD and (name not in exported or tuple(exported[name][0]) != shape):
                theirs = list(exported[name][0]) if name in exported else "nothing"
                raise UnsupportedError(
                    f"the drafter has '{name}' {list(shape)}, of which Megatron-Bridge exports {theirs}: the policy's"
                    f" weights are named or cut in an unknown way; {CURE}"
                )
        return drafter


@ray.remote(runtime_env=get_runtime_env_for_policy_worker("megatron_policy_worker"))
class MegatronPolicyWorker(MegatronPolicyWorkerImpl):
    """The Ray actor, by the name of which NeMo-RL makes it."""
