"""Re-quantizing a whole model in place through the engine, over the time to read its BF16 weights once.

The engine's own remote call makes the drafter anew, as after every refit: launches, waiting and the check for NaN
included. One read is the bytes of the quantized layers over the bandwidth that this machine gives a reader, measured in
the same run. `benchmarks.requantize` compares the formats without an engine.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..measure import ratio_interval, set_environment
from ..record import Progress, Record, at_least, check_writable, new_parser
from .engines import Contestant, open_engine
from .shapes import Built, add_shape_option, build, runner_of, settle_shape

if TYPE_CHECKING:
    from vllm import LLM

GOAL_S, GOAL_MEMORY = 0.1, 1.03
"""For the 7B shape; and the drafter's bytes over what the format needs."""
BANDWIDTH_S = 0.3
"""Seconds for each measurement of bandwidth."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("gpu.requantize", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--format", default="int4", help="of the drafter; default: int4")
    parser.add_argument("--rounds", type=at_least(2), default=9, help="default: 9")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    if options.quick:
        options.rounds = 2
    set_environment()
    progress = Progress(options.quiet)
    record = Record(
        "gpu.requantize",
        f"Re-quantizing {options.shape} in place, {options.format}",
        {key: getattr(options, key) for key in ("shape", "format", "rounds", "quick")},
        (
            "format",
            "GB read",
            "one read ms",
            "quantize ms",
            "over a read",
            "95 % interval",
            "MiB, format",
            "over it",
        ),
    )
    with tempfile.TemporaryDirectory() as directory:
        built = build(options.shape, Path(directory))
        contestant = Contestant("ours", {"drafter": {"format": options.format}, "gate": {"mode": "off"}})
        with progress.phase("opening the engine"):
            llm = open_engine(built, contestant, requests=1, max_model_len=64, kv_gib=0.5)
        _measure(record, llm, built, options, progress)
    record.finish(options)
    return 0


def _measure(record: Record, llm: "LLM", built: Built, options: Any, progress: Progress) -> None:
    import torch

    from nemo_rl_efficientrollout.gate.detector.bandwidth import read_bandwidth
    from nemo_rl_efficientrollout.gate.detector.cache import last_level_cache_bytes

    runner = runner_of(llm)
    twin, device = runner.self_speculation.twin, torch.device(runner.device)
    weights = sum(layer.source.weight.nbytes for layer in twin.quantized)
    cache = last_level_cache_bytes(device)
    seconds, reads, told = [], [], []
    allocated = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    for index in range(options.rounds + 1):
        with progress.phase(f"round {index} of {options.rounds}"):
            read = weights / read_bandwidth(device, cache, BANDWIDTH_S)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                allocated = torch.cuda.memory_allocated()
                torch.cuda.synchronize()
            started = time.perf_counter()
            stats = llm.collective_rpc("efficientrollout_requantize")[0]
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - started
        if stats["drafter_problem"]:
            raise RuntimeError(stats["drafter_problem"])
        if index:  # the first one compiles kernels
            seconds.append(spent)
            reads.append(read)
            told.append(stats["requantize_seconds"])
    peak = torch.cuda.max_memory_allocated() - allocated if device.type == "cuda" else None
    owned = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in twin.tensors()}.values())
    _report(record, weights, seconds, reads, told, owned, peak, built, options)


def _report(
    record: Record,
    weights: int,
    seconds: list[float],
    reads: list[float],
    told: list[float],
    owned: int,
    peak: int | None,
    built: Built,
    options: Any,
) -> None:
    from nemo_rl_efficientrollout.drafter.formats import format_named
    from nemo_rl_efficientrollout.drafter.shapes import model_shape
    from nemo_rl_efficientrollout.drafter.size import drafter_size

    expected = drafter_size(model_shape(built.config), format_named(options.format)).total
    value, low, high = ratio_interval([([s], [r]) for s, r in zip(seconds, reads, strict=True)])
    record.results.append(
        {
            "format": options.format,
            "weight_bytes": weights,
            "requantize_seconds": seconds,
            "engine_says_seconds": told,
            "read_seconds": reads,
            "over_a_read": {"value": value, "low": low, "high": high},
            "drafter_bytes": owned,
            "format_bytes": expected,
            "memory_ratio": owned / expected,
            "peak_extra_bytes": peak,
            "time_goal_met": median(seconds) <= GOAL_S if options.shape == "qwen2.5-7b" else None,
            "memory_goal_met": owned <= GOAL_MEMORY * expected,
        }
    )
    record.rows.append(
        (
            options.format,
            f"{weights / 1e9:.2f}",
            f"{1e3 * median(reads):.2f}",
            f"{1e3 * median(seconds):.2f}",
            f"{value:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{expected / 2**20:.1f}",
            f"{owned / expected:.4f}",
        )
    )
    if options.shape == "qwen2.5-7b":
        verdict = "met" if median(seconds) <= GOAL_S else "missed"
        record.notes.append(f"goal: at most {1e3 * GOAL_S:.0f} ms: {verdict}")
    kept = "met" if owned <= GOAL_MEMORY * expected else "missed"
    record.notes.append(f"goal: the drafter owns at most {GOAL_MEMORY - 1:.0%} more than the format needs: {kept}")
    if peak is not None:
        record.notes.append(f"most allocated meanwhile, beyond what was before: {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
