"""Entry point `vllm.general_plugins`: installs what vLLM has no configuration for.

vLLM calls `register` once in every process. It changes nothing for engines that do not carry this package's
block in `additional_config`.
"""

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger

from ..config import KEY
from ..errors import UnsupportedError
from ..patching import wrap
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

    from . import metrics, rpc, self_test, workers
    from .compat import dead_engine, runner_choice, stop_strings

    runner_choice.install()
    stop_strings.install()
    dead_engine.install()
    metrics.install()
    for method in rpc.WORKER_METHODS:
        setattr(WorkerBase, method.__name__, method)
    wrap(WorkerBase, "__init__", _prepare_worker_process_first)
    wrap(EngineCore, "_initialize_kv_caches", workers.offer_to_scheduler)
    wrap(EngineCore, "__init__", self_test.after_init)
    wrap(EngineCore, "collective_rpc", rpc.answer_in_engine_core)
    wrap(EngineCore, "sleep", rpc.tell_scheduler)
    wrap(EngineCore, "wake_up", rpc.tell_scheduler)
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
            _install_runner(vllm_config)
        original(worker, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config):
            from . import entry_points, sleep

            entry_points.watch(worker)
            sleep.watch(worker)

    return init


def _install_runner(vllm_config: "VllmConfig") -> None:
    # Late, and only in processes that run a model: these modules import torch kernels and runners.
    if vllm_config.use_v2_model_runner:
        if vllm_config.parallel_config.pipeline_parallel_size > 1:  # only the last rank would have a drafter to ask
            raise UnsupportedError("pipeline parallelism is not supported: set pipeline_parallel_size to 1")
        from . import runner_v2

        runner_v2.install()
        return
    if vllm_config.scheduler_config.async_scheduling:
        raise UnsupportedError(
            "vLLM's model runner V1 drafts only under synchronous scheduling: set async_scheduling to false,"
            " or use model runner V2 (VLLM_USE_V2_MODEL_RUNNER=1)"
        )
    from . import runner_v1

    runner_v1.install()
