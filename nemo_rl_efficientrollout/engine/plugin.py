"""Entry point `vllm.general_plugins`: installs what vLLM has no configuration for.

vLLM calls `register` once in every process. It changes nothing for engines that do not carry this package's
block in `additional_config`.
"""

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger

from ..config import KEY
from ..errors import UnsupportedError
from .patching import wrap
from .versions import check_vllm_version

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.efficientrollout")
_active = False


def register() -> None:
    """Install the plugin in this process. Safe to call again."""
    global _active
    if _active:
        return
    try:
        check_vllm_version()
    except UnsupportedError as error:
        logger.warning("EfficientRollout is off: %s", error)
        return
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.core_client import AsyncMPClient, SyncMPClient
    from vllm.v1.worker.worker_base import WorkerBase

    from . import rpc

    for method in rpc.WORKER_METHODS:
        setattr(WorkerBase, method.__name__, method)
    wrap(WorkerBase, "__init__", _prepare_worker_process_first)
    wrap(EngineCore, "_initialize_kv_caches", rpc.offer_probe_to_scheduler)
    wrap(EngineCore, "collective_rpc", rpc.answer_in_engine_core)
    wrap(SyncMPClient, "collective_rpc", rpc.pack_weights_for_transport)
    wrap(AsyncMPClient, "collective_rpc_async", rpc.pack_weights_for_transport)
    _active = True


def is_enabled(vllm_config: "VllmConfig") -> bool:
    """Whether this engine was configured by `engine_kwargs`."""
    return isinstance(vllm_config.additional_config, dict) and KEY in vllm_config.additional_config


def require_active() -> None:
    """Stop an engine that was configured for EfficientRollout in a process where vLLM did not load the plugin."""
    if not _active:
        raise UnsupportedError(
            "the vLLM plugin 'efficientrollout' is not loaded in this process: check that the package is installed"
            " here, that VLLM_PLUGINS admits it, and that the vLLM version is supported"
        )


def _prepare_worker_process_first(original: Any) -> Any:
    def init(worker: Any, vllm_config: "VllmConfig", *args: Any, **kwargs: Any) -> None:
        if is_enabled(vllm_config):
            _require_runner_v1(vllm_config)
            # Late, and only in processes that run a model: these modules import torch kernels and runners.
            from .runner_v1 import install

            install()
        original(worker, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config):
            from . import entry_points, sleep

            entry_points.watch(worker)
            sleep.watch(worker)

    return init


def _require_runner_v1(vllm_config: "VllmConfig") -> None:
    if vllm_config.use_v2_model_runner:
        raise UnsupportedError(
            "this engine uses vLLM's model runner V2, which is not supported yet: set VLLM_USE_V2_MODEL_RUNNER=0"
        )
