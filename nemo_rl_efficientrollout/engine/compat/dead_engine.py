"""Who waits for an engine whose process was killed waits for ever: vLLM's synchronous client notices and tells nobody.

vllm/v1/engine/core_client.py, `MPClient.start_engine_core_monitor`, in 0.25.1 and 0.32.0. Remove when
tests/faults/test_job.py passes without it.
"""

from typing import Any

from vllm.v1.engine.core_client import SyncMPClient
from vllm.v1.engine.exceptions import EngineDeadError

from ...patching import wrap


def install() -> None:
    """Answer who waits, for tokens or anything else, with `EngineDeadError` once the process is known to be dead."""
    wrap(SyncMPClient, "shutdown", _answering)


def _answering(original: Any) -> Any:
    def shutdown(client: Any, *args: Any, **kwargs: Any) -> None:
        if client.resources.engine_dead:
            client.outputs_queue.put_nowait(EngineDeadError())
            for future in list(client.utility_results.values()):
                if not future.done():
                    future.set_exception(EngineDeadError())
        original(client, *args, **kwargs)

    return shutdown
