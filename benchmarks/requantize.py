"""Time to quantize all linear weights of a model in place, over the time to read them once.

Reading is a sum over the BF16 weights, which does little else. Both take turns on the same tensors, and every second
round runs backwards, so that slow drifts of the machine cancel.
"""

import sys
import time
from collections.abc import Callable

import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.fused import buffers, quantize_packed

from . import model
from .measure import ratio_interval
from .model import Shape
from .record import Progress, Record, at_least, check_writable, new_parser

GOALS = {"int8": 6.0, "int4": 6.0}
"""On CPUs: requantizing then takes a few seconds for the largest model that a CPU would serve."""
SHAPES = {**model.SHAPES, "7b": Shape(3584, 28, 28, 4, 18944, 152064)}
"""`7b` is Qwen2.5-7B."""
NAMES = [name for name in FORMATS if name != "bf16"]
READ = "read"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("requantize", (__doc__ or "").splitlines()[0])
    parser.add_argument("--model-shape", choices=SHAPES, help="default: 0.5b on a CPU, 7b on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=at_least(2), default=9, help="default: 9")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    device = torch.device(options.device)
    options.model_shape = options.model_shape or ("7b" if device.type == "cuda" else "0.5b")
    if options.quick:
        options.model_shape, options.rounds = "tiny", 2
    progress = Progress(options.quiet)
    record = Record(
        "requantize",
        f"Time to quantize over time to read, linear weights of model shape {options.model_shape}, {device.type}",
        {
            "threads": torch.get_num_threads(),
            **{key: getattr(options, key) for key in ("model_shape", "device", "rounds", "quick")},
        },
        ("format", "read ms", "quantize ms", "ratio", "95 % interval", "goal"),
    )
    with progress.phase("making weights"):
        passes = _passes(SHAPES[options.model_shape], device)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for index in range(options.rounds + 1):
        with progress.phase(f"round {index} of {options.rounds}"):
            for name in list(passes) if index % 2 else reversed(passes):
                spent = _seconds(passes[name], device)
                if index:  # the first round compiles kernels and touches memory
                    seconds[name].append(spent)
    for name in NAMES:
        _row(record, name, seconds[name], seconds[READ], device)
    record.notes.append("in place: codes, scales and zero points go into the buffers of the last time")
    if torch.cuda.is_available() and device.type == "cuda":
        record.notes.append(torch.cuda.get_device_name(device))
    record.finish(options)
    return 0


def _passes(shape: Shape, device: torch.device) -> dict[str, Callable[[], object]]:
    """Over all weights: reading them, and quantizing them in each format."""
    weights = [torch.randn(rows, columns, device=device).mul_(0.02).bfloat16() for rows, columns in _linears(shape)]
    passes: dict[str, Callable[[], object]] = {READ: lambda: [weight.sum() for weight in weights]}
    for name in NAMES:
        form = FORMATS[name]
        kept = [buffers(form, weight) for weight in weights]
        passes[name] = lambda form=form, kept=kept: [
            quantize_packed(form, weight, out) for weight, out in zip(weights, kept, strict=True)
        ]
    return passes


def _linears(shape: Shape) -> list[tuple[int, int]]:
    """[N, K] of every linear layer, merged as vLLM merges them."""
    heads = shape.heads * shape.head_dim
    layer = [
        (heads + 2 * shape.kv_heads * shape.head_dim, shape.hidden),
        (shape.hidden, heads),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    ]
    return [*layer * shape.layers, (shape.vocabulary, shape.hidden)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _row(record: Record, name: str, quantize: list[float], read: list[float], device: torch.device) -> None:
    ratio, low, high = ratio_interval([([q], [r]) for q, r in zip(quantize, read, strict=True)])
    medians = {"quantize": 1e3 * sorted(quantize)[len(quantize) // 2], "read": 1e3 * sorted(read)[len(read) // 2]}
    goal = GOALS.get(name) if device.type == "cpu" else None
    record.results.append(
        {
            "format": name,
            "median_ms": medians,
            "ratio": {"value": ratio, "low": low, "high": high},
            "goal": goal,
            "met": None if goal is None else ratio <= goal,
            "seconds": quantize,
        }
    )
    verdict = "" if goal is None else f"≤ {goal:g}: {'met' if ratio <= goal else 'missed'}"
    times = f"{medians['read']:.1f}", f"{medians['quantize']:.1f}"
    record.rows.append((name, *times, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", verdict))


if __name__ == "__main__":
    sys.exit(main())
