# pyright: reportMissingImports=false
"""NeMo-RL's own Ray actors for generation, on a Ray cluster of one machine that claims to have a GPU."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.models import weights_of
from tests.nemo_rl.configs import generation_config
from tests.nemo_rl.worker import Weights, answers, batch, sending, shapes

Prompts = list[list[int]]


@contextmanager
def generation(model: Path, settings: dict[str, Any], *overrides: str) -> Iterator[Any]:
    """A `VllmGeneration` on a cluster of its own; its one actor starts from random weights and knows what will come."""
    import ray
    from nemo_rl.distributed.virtual_cluster import RayVirtualCluster
    from nemo_rl.models.generation.vllm import VllmGeneration

    config: Any = generation_config(model, settings, *overrides)
    # Sockets of Ray have to be short, and a cluster that others run here is not to be joined.
    with tempfile.TemporaryDirectory(prefix="er-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=1,
            include_dashboard=False,
            object_store_memory=100 << 20,
            _temp_dir=folder,
            log_to_driver=False,
        )
        try:
            cluster = RayVirtualCluster([1], use_gpus=True, num_gpus_per_node=1, name="tests")
            policy = VllmGeneration(cluster, config)
            policy.prepare_refit_info(shapes(weights_of(model)))
            yield policy
            policy.shutdown()
        finally:
            ray.shutdown()


def rpc(policy: Any, method: str) -> Any:
    """The engine's answer to a call, through the general one of NeMo-RL's workers."""
    import ray

    call = "checkpoint_engine_rpc_async" if policy.cfg["vllm_cfg"]["async_engine"] else "checkpoint_engine_rpc"
    return ray.get(policy.worker_group.run_all_workers_single_data(call, checkpoint_method=method))[0][0]


def stats(policy: Any) -> dict[str, Any]:
    """This package's counters."""
    return rpc(policy, "efficientrollout_stats")


def refit(policy: Any, weights: Weights) -> bool:
    """One refit over IPC, as in NeMo-RL's `refit_policy_generation`."""
    import ray

    with sending(rpc(policy, "get_zmq_address"), weights.items()):
        return all(ray.get(policy.update_weights_via_ipc_zmq()))


def generate(policy: Any, prompts: Prompts) -> list[list[int]]:
    """Greedy answers of a synchronous actor."""
    return answers(prompts, policy.generate(batch(prompts), greedy=True))


async def generate_each(policy: Any, prompts: Prompts) -> list[list[int]]:
    """Greedy answers of an asynchronous actor, which takes one prompt at a time: all at once here."""

    async def one(prompt: list[int]) -> list[int]:
        async for _, output in policy.generate_async(batch([prompt]), greedy=True):
            return answers([prompt], output)[0]
        raise AssertionError("no answer")

    return await asyncio.gather(*(one(prompt) for prompt in prompts))
