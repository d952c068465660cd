"""The tail of a rollout: what a drafting cycle costs with few requests, and how near it comes to its byte limit.

At every load of B requests with S tokens of context each: a plain step T_T, a whole cycle with γ pinned, and its parts
T_D and T_V(γ), which steady decoding does not share (γ switched before every step, as in `cpu_speedup`). Speedup is
τ(γ) T_T / T_cycle, with τ computed from an imposed acceptance of 0.95: the seconds of a cycle do not depend on what was
accepted. Plain steps are those of the same engine with γ pinned to 0; what that costs over stock vLLM is `overhead`'s
question. Prompts differ between requests, so that no cached block is shared.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from nemo_rl_efficientrollout.config import MAX_DRAFT_LENGTH

from ..drafting import WARM_UP, DraftingDecoder
from ..measure import Block, ratio_interval, set_environment
from ..record import Progress, Record, at_least, check_writable, new_parser, whole_numbers
from .engines import Contestant, open_engine
from .limits import LONGEST, Bytes, acceptance_length, byte_limit
from .shapes import Built, add_shape_option, build, settle_shape

ACCEPTANCE = 0.95
GOAL_SHARE, GOAL_REQUESTS, GOAL_DRAFT = 0.85, 8, 0.42
"""Share of S* up to that many requests; T_D / T_T of one request, 7B, int4."""
FORMATS = ("int4", "int4_symmetric", "fp8", "fp8_block", "int8")


@dataclass
class Load:
    """Everything measured at one B and S; `cycles[γ][i]` belongs to round i, γ = 0 is plain decoding."""

    requests: int
    context: int
    cycles: dict[int, list[Block]] = field(default_factory=lambda: defaultdict(list))
    drafting: dict[int, list[float]] = field(default_factory=dict)
    verifying: dict[int, list[float]] = field(default_factory=dict)

    def step_s(self, length: int) -> float:
        """Seconds of a steady step."""
        return median(step.seconds for block in self.cycles[length] for step in block.steps)

    def speedup(self, length: int) -> tuple[float, float, float]:
        """At the imposed acceptance, with its 95 % interval."""
        rounds = [
            ([step.seconds for step in plain.steps], [step.seconds for step in cycle.steps])
            for plain, cycle in zip(self.cycles[0], self.cycles[length], strict=True)
        ]
        tau = acceptance_length(length, ACCEPTANCE)
        value, low, high = (tau * number for number in ratio_interval(rounds))
        return value, low, high

    def drafter_s(self, length: int) -> float:
        """T_D: by how much a step that only drafts exceeds a plain one, over γ."""
        return (median(self.drafting[length]) - self.step_s(0)) / length


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("gpu.tail", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--format", choices=FORMATS, default="int4", help="of the drafter; default: int4")
    parser.add_argument(
        "--sizes", type=whole_numbers(1), default=(1, 2, 4, 8, 16, 32, 64), help="B; default: 1,2,4,8,16,32,64"
    )
    parser.add_argument(
        "--contexts", type=whole_numbers(16), default=(256, 1024, 4096, 16384), help="S; default: 256,1024,4096,16384"
    )
    parser.add_argument("--draft-lengths", type=whole_numbers(1), default=(1, 3, 5, 7, 11), help="default: 1,3,5,7,11")
    parser.add_argument("--rounds", type=at_least(2), default=3, help="default: 3")
    parser.add_argument("--steps", type=at_least(2), default=16, help="of a mode in a round; default: 16")
    parser.add_argument("--kv-gib", type=float, default=64.0, help="KV cache; default: 64")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    if max(options.draft_lengths) > MAX_DRAFT_LENGTH:
        parser.error(f"argument --draft-lengths: {max(options.draft_lengths)} is above {MAX_DRAFT_LENGTH}")
    if options.quick:
        options.format, options.sizes, options.contexts, options.draft_lengths = "int8", (1, 2), (32, 64), (1, 3)
        options.rounds, options.steps, options.kv_gib = 2, 4, 0.25
    set_environment()
    progress = Progress(options.quiet)
    names = ("shape", "format", "sizes", "contexts", "draft_lengths", "rounds", "steps", "kv_gib", "quick")
    record = Record(
        "gpu.tail",
        f"Cycles of self-speculation at {ACCEPTANCE:g} acceptance, {options.shape}, drafter {options.format}",
        {name: getattr(options, name) for name in names} | {"acceptance": ACCEPTANCE},
        ("B", "S", "γ", "T_T ms", "T_D ms", "T_V ms", "cycle ms", "T_D/T_T", "speedup", "95 %", "S*", "share", "goal"),
    )
    with tempfile.TemporaryDirectory() as directory:
        with progress.phase("building model and engine"):
            built, decoder = _engine(Path(directory), options)
        for context in options.contexts:
            for size in options.sizes:
                if size * (context + _growth(options)) > _room(decoder):
                    record.notes.append(f"B = {size}, S = {context}: left out, does not fit the KV cache")
                    continue
                load = _measure(decoder, size, context, options, progress)
                _report(record, load, built, options)
                progress.say(f"B = {size}, S = {context}: {record.results[-1]['best_speedup']:.3f} of a plain step")
    record.notes += [
        f"S*: τ / (γ c + 1), best γ of 1…{LONGEST}, c by bytes of weights and KV cache; share: best speedup over it",
        f"goals: {GOAL_SHARE:.0%} of S* up to B = {GOAL_REQUESTS}; T_D/T_T at most {GOAL_DRAFT} at B = 1, 7B, int4",
        "S is the prompt; contexts grow from there by at most"
        f" {(options.steps + WARM_UP) * (max(options.draft_lengths) + 1)} tokens within a block",
    ]
    record.finish(options)
    return 0


def _growth(options: Any) -> int:
    """Most tokens that `Decoder.decode` and `split` let a request grow by."""
    return (options.steps + 2 * WARM_UP + 2) * (MAX_DRAFT_LENGTH + 1)


def _room(decoder: DraftingDecoder) -> int:
    """Tokens that the KV cache holds."""
    cache = decoder.llm.llm_engine.vllm_config.cache_config
    return (cache.num_gpu_blocks or 0) * cache.block_size


def _engine(folder: Path, options: Any) -> tuple[Built, DraftingDecoder]:
    built = build(options.shape, folder)
    settings = {
        "drafter": {"format": options.format},
        "draft_length": {"max": max(options.draft_lengths)},
        "gate": {"mode": "off"},
    }
    llm = open_engine(
        built,
        Contestant(options.format, settings),
        requests=max(options.sizes),
        max_model_len=max(options.contexts) + _growth(options),
        kv_gib=options.kv_gib,
        enable_prefix_caching=True,  # a load's prompts are the same in every block, and prefilled once
    )
    return built, DraftingDecoder(llm, built.vocabulary)


def _measure(decoder: DraftingDecoder, size: int, context: int, options: Any, progress: Progress) -> Load:
    load = Load(size, context)
    decoder.prompt = context
    modes = (0, *options.draft_lengths)

    def run(length: int) -> Block:
        decoder.pin(length)
        return decoder.decode(size, warm_up=WARM_UP, steps=options.steps)

    with progress.phase(f"B = {size}, S = {context}"):
        for length in modes:  # the first steps of a size compile and capture
            run(length)
        for index in range(options.rounds):
            for length in modes if index % 2 == 0 else reversed(modes):
                load.cycles[length].append(run(length))
        for length in options.draft_lengths:
            load.drafting[length], load.verifying[length] = decoder.split(size, length, options.steps // 2)
    return load


def _report(record: Record, load: Load, built: Built, options: Any) -> None:
    draft = Bytes.of(built.config, options.format).ratio(load.requests, load.context)
    limit, limit_length = byte_limit(ACCEPTANCE, draft)
    plain = load.step_s(0)
    speedups = {length: load.speedup(length) for length in options.draft_lengths}
    best = max(speedups, key=lambda length: speedups[length][0])
    reached = speedups[best][0] / limit
    lengths = [_length_result(load, length, speedups[length]) for length in options.draft_lengths]
    record.results.append(
        {
            "requests": load.requests,
            "context": load.context,
            "target_ms": 1e3 * plain,
            "byte_ratio": draft,
            "limit": limit,
            "limit_draft_length": limit_length,
            "best_draft_length": best,
            "best_speedup": speedups[best][0],
            "share_of_limit": reached,
            "goal_met": reached >= GOAL_SHARE if load.requests <= GOAL_REQUESTS else None,
            "draft_lengths": lengths,
        }
    )
    for length, result in zip(options.draft_lengths, lengths, strict=True):
        value, low, high = speedups[length]
        cells = [f"{result[key]:.3f}" for key in ("drafter_ms", "verify_ms", "cycle_ms", "draft_over_target")]
        last = _verdicts(load, length == best, reached, result, options)
        times = (str(load.requests), str(load.context), str(length), f"{1e3 * plain:.3f}", *cells)
        share = f"{reached:.0%}" if length == best else ""
        record.rows.append((*times, f"{value:.3f}", f"{low:.3f} to {high:.3f}", f"{limit:.2f}", share, last))


def _length_result(load: Load, length: int, speedup: Sequence[float]) -> dict[str, Any]:
    return {
        "draft_length": length,
        "acceptance_length": acceptance_length(length, ACCEPTANCE),
        "drafter_ms": 1e3 * load.drafter_s(length),
        "verify_ms": 1e3 * median(load.verifying[length]),
        "cycle_ms": 1e3 * load.step_s(length),
        "draft_over_target": load.drafter_s(length) / load.step_s(0),
        "speedup": dict(zip(("value", "low", "high"), speedup, strict=True)),
    }


def _verdicts(load: Load, is_best: bool, reached: float, result: dict[str, Any], options: Any) -> str:
    verdicts = []
    if is_best and load.requests <= GOAL_REQUESTS:
        verdicts.append(f"≥ {GOAL_SHARE:.0%}: {'met' if reached >= GOAL_SHARE else 'missed'}")
    if is_best and load.requests == 1 and (options.shape, options.format) == ("qwen2.5-7b", "int4"):
        met = result["draft_over_target"] <= GOAL_DRAFT
        verdicts.append(f"≤ {GOAL_DRAFT}: {'met' if met else 'missed'}")
    return "; ".join(verdicts)


if __name__ == "__main__":
    sys.exit(main())
