# pyright: reportMissingImports=false
"""NeMo-RL's synchronous generation worker in this process, and a trainer that refits it."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.models import weights_of
from tests.nemo_rl.configs import PAD, generation_config

Weights = dict[str, torch.Tensor]
SECONDS = 60
"""After which a dead peer is given up."""


def start_worker(model: Path, settings: dict[str, Any] | None, *overrides: str, **options: Any) -> Any:
    """A `VllmGenerationWorkerImpl` after its `post_init`; arguments as in `generation_config`."""
    import ray
    from nemo_rl.models.generation.vllm.vllm_worker import VllmGenerationWorkerImpl

    ray.get_gpu_ids = lambda: [0]
    config: Any = generation_config(model, settings, *overrides, **options)
    worker = VllmGenerationWorkerImpl(config, bundle_indices=[0], seed=0)
    worker.post_init()
    return worker


@contextlib.contextmanager
def refitted_worker(checkpoint: Path, settings: dict[str, Any], **options: Any) -> Iterator[Any]:
    """A worker that starts from random weights, as in training, and knows what will come."""
    worker = start_worker(checkpoint, settings, **options)
    worker.prepare_refit_info(shapes(weights_of(checkpoint)))
    try:
        yield worker
    finally:
        if worker.llm is not None:  # else Python waits for its sockets forever when it ends
            worker.shutdown()


def stats(worker: Any) -> dict[str, Any]:
    return worker.llm.collective_rpc("efficientrollout_stats")[0]


def inner_worker(worker: Any) -> Any:
    """vLLM's own worker, with NeMo-RL's extension mixed in."""
    return worker.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker


def state_of(worker: Any) -> Any:
    """The inner worker's SelfSpeculation, for tests that watch it or break it on purpose."""
    return inner_worker(worker).model_runner.self_speculation


def count_refills(worker: Any, monkeypatch: Any) -> dict[str, int]:
    """How often each layer of the drafter was made anew from now on."""
    made: dict[str, int] = {}
    for layer in state_of(worker).twin.quantized:
        made[layer.path] = 0

        def counting(*args: Any, path: str = layer.path, refill: Any = layer.method.refill) -> Any:
            made[path] += 1
            return refill(*args)

        monkeypatch.setattr(layer.method, "refill", counting)
    return made


def batch(prompts: list[list[int]]) -> Any:
    """Prompts as NeMo-RL hands them over: right padded."""
    from nemo_rl.distributed.batched_data_dict import BatchedDataDict

    lengths = [len(prompt) for prompt in prompts]
    padded = [prompt + [PAD] * (max(lengths) - len(prompt)) for prompt in prompts]
    return BatchedDataDict({"input_ids": torch.tensor(padded), "input_lengths": torch.tensor(lengths)})


def answers(prompts: list[list[int]], output: Any) -> list[list[int]]:
    """The generated tokens of NeMo-RL's output, without prompts and padding."""
    ends = output["unpadded_sequence_lengths"].tolist()
    rows = zip(prompts, output["output_ids"].tolist(), ends, strict=True)
    return [row[len(prompt) : end] for prompt, row, end in rows]


def shapes(weights: Weights) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What a trainer announces to `prepare_refit_info`."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


@contextlib.contextmanager
def sending(
    address: str, weights: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = 256 * 1024
) -> Iterator[None]:
    """Send `weights` to `address` with NeMo-RL's own sender, in a thread, while the body receives them."""
    import zmq
    from nemo_rl.models.policy.utils import stream_weights_via_ipc_zmq_impl

    errors: list[BaseException] = []
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    for option, value in ((zmq.SNDTIMEO, SECONDS * 1000), (zmq.RCVTIMEO, SECONDS * 1000), (zmq.LINGER, 0)):
        socket.setsockopt(option, value)
    socket.bind(address)

    def send() -> None:
        try:
            stream_weights_via_ipc_zmq_impl(iter(weights), bucket_bytes, socket, rank=1, worker_name="trainer")
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
        thread.join(SECONDS)
        assert not thread.is_alive(), "the sender still waits for an answer"
        if errors:
            raise errors[0]
    finally:
        socket.close()
        context.term()


def address_of(worker: Any) -> str:
    """Where a trainer's socket for this worker has to be."""
    return worker.llm.collective_rpc("get_zmq_address")[0]


def refit(worker: Any, weights: Iterable[tuple[str, torch.Tensor]], receive: Callable[[], bool] | None = None) -> bool:
    """One refit over IPC; what NeMo-RL's worker answers."""
    with sending(address_of(worker), weights):
        return (receive or worker.update_weights_via_ipc_zmq)()


def colocated_refit(worker: Any, weights: Weights) -> bool:
    """A refit in the order of NeMo-RL's `refit_policy_generation`, after rollouts have ended."""
    worker.sleep()
    worker.wake_up(tags=["weights"])
    answer = refit(worker, weights.items())
    worker.wake_up(tags=["kv_cache"])
    return answer
