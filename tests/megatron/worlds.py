"""Four processes that hold a model in shards, and what each of them saw of its drafter."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from nemo_rl_efficientrollout.drafter.formats import FORMATS, Format, Quantized
from nemo_rl_efficientrollout.drafter.megatron import DrafterStream, Groups, quantize_shards
from nemo_rl_efficientrollout.drafter.packing import read_stream
from nemo_rl_efficientrollout.errors import UnsupportedError
from tests.megatron.shapes import VOCAB, Shape, hf_weights, load, quantizable

WORLD = 4
NAMES = tuple(name for name in FORMATS if name != "bf16")


@dataclass(frozen=True)
class Case:
    """A model, split over four ranks; what the sizes leave over is data-parallel."""

    shape: Shape = Shape()  # noqa: RUF009
    tensor: int = 1
    pipeline: int = 1
    experts: int = 1
    expert_tensor: int = 1
    formats: tuple[str, ...] = NAMES
    vocab: int | None = VOCAB


Job = Callable[[Case], Any]
"""Runs in every process; its answer goes through JSON."""


def run(jobs: dict[str, tuple[Job, Case]], folder: Path) -> dict[str, list[Any]]:
    """By the name, every rank's answer."""
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn(_process, (jobs, str(folder)), nprocs=WORLD)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
    return {name: [answers[name] for answers in ranks] for name in jobs}


def _process(rank: int, jobs: dict[str, tuple[Job, Case]], folder: str) -> None:
    torch.set_num_threads(1)
    from tests.megatron.models import state

    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/meeting", limit, world_size=WORLD, rank=rank)
    answers: dict[str, Any] = {}
    for name, (job, case) in jobs.items():
        state.initialize_model_parallel(
            case.tensor,
            case.pipeline,
            expert_model_parallel_size=case.experts,
            expert_tensor_parallel_size=case.expert_tensor,
            distributed_timeout_minutes=1,
        )
        answers[name] = job(case)
        state.destroy_model_parallel()
    Path(folder, f"{rank}.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


def model_of(case: Case, weights: dict[str, Tensor]) -> torch.nn.Module:
    """This rank's shards of the weights, in real megatron-core modules."""
    from tests.megatron.models import build, state

    model = build(case.shape)
    load(model, weights, case.shape, state)
    return model


def compare(case: Case) -> dict[str, Any]:
    """By the format: how this rank's pieces and its whole stream differ from the quantized gathered weights."""
    weights = hf_weights(case.shape)
    model = model_of(case, weights)
    gathered = quantizable(weights, case.shape)
    return {name: _compare(model, FORMATS[name], gathered, case.vocab) for name in case.formats}


def _compare(
    model: torch.nn.Module, format: Format, gathered: dict[str, Tensor], vocab: int | None
) -> dict[str, list[str] | float]:
    expected = {name: format.quantize(weight) for name, weight in gathered.items()}
    pieces = list(quantize_shards(model, format, Groups.of_megatron(), vocab))
    wrong_pieces = []
    for name, shape, (row, column, rows, columns), quantized in pieces:
        codes = expected[name].data[row : row + rows, column : column + columns]
        if shape != gathered[name].shape or not same(codes, quantized.data):
            wrong_pieces.append(name)
    received = read_stream(DrafterStream(model, format, vocab), format)
    return {
        "pieces": [piece.name for piece in pieces],
        "wrong_pieces": wrong_pieces,
        "names": sorted(received),
        "wrong": [name for name, quantized in received.items() if not equal(quantized, expected[name])],
        "error": max(_error(format, quantized, gathered[name]) for name, quantized in received.items()),
    }


def refusal(case: Case) -> dict[str, str]:
    """By the format: the line with which this rank refuses; empty if it does not."""
    model = model_of(case, hf_weights(case.shape))
    answers: dict[str, str] = {}
    for name in case.formats:
        answers[name] = ""
        try:
            DrafterStream(model, FORMATS[name], case.vocab)
        except UnsupportedError as error:
            answers[name] = str(error)
    return answers


def equal(a: Quantized, b: Quantized) -> bool:
    if (a.zero is None) != (b.zero is None):
        return False
    return all(same(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None)


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, shape and type too."""
    bits_a, bits_b = (tensor.contiguous().view(torch.uint8) for tensor in (a, b))
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits_a, bits_b)


def _error(format: Format, quantized: Quantized, weight: Tensor) -> float:
    """Largest |w - dequantized|, in scales."""
    block = format.block(weight.shape[1])
    height, width = min(block.rows, weight.shape[0]), min(block.columns, weight.shape[1])
    scale = quantized.scale.float().repeat_interleave(height, 0).repeat_interleave(width, 1)
    difference = (weight.float() - format.dequantize(quantized)).abs()
    return float((difference / scale[: weight.shape[0], : weight.shape[1]]).max())
