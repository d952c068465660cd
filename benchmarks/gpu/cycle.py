"""What one drafting cycle spends its time on: the largest kernels, and the largest gaps in which none runs.

Steps with γ pinned decode under torch's profiler. On a GPU, kernels are what runs on the device, and a gap is the time
between the end of one and the start of the next: what the host takes to launch it. On a CPU, kernels are the outermost
operators, and a gap is the Python between two of them. Profiling itself slows the host, so the cycle is also timed
without it: the share of a kernel is taken from the profile, the cycle's length from the clock.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from nemo_rl_efficientrollout.config import MAX_DRAFT_LENGTH

from ..drafting import WARM_UP, DraftingDecoder
from ..measure import set_environment
from ..record import Progress, Record, at_least, check_writable, new_parser, whole_numbers
from .engines import Contestant, open_engine
from .shapes import add_shape_option, build, settle_shape

NAME = 70
"""Characters of a kernel's name in the table."""


@dataclass(frozen=True)
class Span:
    """One kernel."""

    name: str
    start_us: float
    end_us: float


@dataclass
class Cost:
    """Of all kernels of a name, or of all gaps between the same two, per cycle."""

    kind: str
    name: str
    microseconds: float = 0.0
    count: float = 0.0


def kernels(spans: Sequence[Span], cycles: int) -> list[Cost]:
    """By name, most time first."""
    costs: dict[str, Cost] = {}
    for span in spans:
        cost = costs.setdefault(span.name, Cost("kernel", span.name))
        cost.microseconds += (span.end_us - span.start_us) / cycles
        cost.count += 1 / cycles
    return sorted(costs.values(), key=lambda cost: -cost.microseconds)


def gaps(spans: Sequence[Span], cycles: int) -> list[Cost]:
    """Time in which nothing runs, by what ended before and what starts after, most time first."""
    costs: dict[tuple[str, str], Cost] = defaultdict(lambda: Cost("gap", ""))
    ordered = sorted(spans, key=lambda span: span.start_us)
    busy_until, before = ordered[0].end_us, ordered[0].name
    for span in ordered[1:]:
        if span.start_us > busy_until:
            cost = costs[before, span.name]
            cost.name = f"{_short(before, NAME // 2)} → {_short(span.name, NAME // 2)}"
            cost.microseconds += (span.start_us - busy_until) / cycles
            cost.count += 1 / cycles
        if span.end_us > busy_until:
            busy_until, before = span.end_us, span.name
    return sorted(costs.values(), key=lambda cost: -cost.microseconds)


def main(arguments: list[str] | None = None) -> int:
    """Profile, print, write."""
    parser = new_parser("gpu.cycle", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--format", default="int4", help="of the drafter; default: int4")
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 8), help="B; default: 1,8")
    parser.add_argument("--draft-length", type=at_least(0), default=5, help="γ, 0 for plain decoding; default: 5")
    parser.add_argument("--context", type=at_least(16), default=1024, help="prompt tokens; default: 1024")
    parser.add_argument("--cycles", type=at_least(2), default=20, help="default: 20")
    parser.add_argument("--most", type=at_least(1), default=15, help="kernels and gaps in the table; default: 15")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    if options.draft_length > MAX_DRAFT_LENGTH:
        parser.error(f"argument --draft-length: {options.draft_length} is above {MAX_DRAFT_LENGTH}")
    if options.quick:
        options.sizes, options.context, options.cycles, options.format = (1,), 32, 3, "int8"
    set_environment()
    progress = Progress(options.quiet)
    names = ("shape", "format", "sizes", "draft_length", "context", "cycles", "quick")
    record = Record(
        "gpu.cycle",
        f"Largest parts of a cycle of γ = {options.draft_length}, {options.shape}, drafter {options.format}",
        {name: getattr(options, name) for name in names},
        ("B", "", "µs a cycle", "times", "share", "name"),
    )
    growth = (options.cycles + WARM_UP + 2) * (MAX_DRAFT_LENGTH + 1)
    with tempfile.TemporaryDirectory() as directory, progress.phase("building model and engine"):
        built = build(options.shape, Path(directory))
        settings = {
            "drafter": {"format": options.format},
            "draft_length": {"max": max(1, options.draft_length)},
            "gate": {"mode": "off"},
        }
        room = options.context + growth
        llm = open_engine(
            built,
            Contestant("ours", settings),
            requests=max(options.sizes),
            max_model_len=room,
            kv_gib=0.25 if options.quick else 8.0,
        )
        decoder = DraftingDecoder(llm, built.vocabulary, prompt=options.context)
    for size in options.sizes:
        with progress.phase(f"B = {size}"):
            _profile(record, decoder, size, options)
    record.notes.append("share: of the profiled cycle; kernels that run at once count twice")
    record.finish(options)
    return 0


def _profile(record: Record, decoder: DraftingDecoder, size: int, options: Any) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    decoder.pin(options.draft_length)
    clean = decoder.decode(size, warm_up=WARM_UP, steps=options.cycles)
    on_gpu = torch.cuda.is_available()
    decoder.start(size, longest=decoder.room)
    for _ in range(WARM_UP):
        decoder.step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        seconds = [decoder.step().seconds for _ in range(options.cycles)]
        if on_gpu:
            torch.cuda.synchronize()
    decoder.stop()
    spans = _spans(profiler.events(), on_gpu)
    _report(record, size, clean.median_seconds, mean(seconds), spans, options)


def _spans(events: Any, on_gpu: bool) -> list[Span]:
    """Kernels on the device, or the outermost operators of the host."""

    def wanted(event: Any) -> bool:
        if on_gpu:
            return event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
        return event.cpu_parent is None and not event.name.startswith("ProfilerStep")

    return [Span(e.name, e.time_range.start, e.time_range.end) for e in events if wanted(e)]


def _report(record: Record, size: int, clean: float, profiled: float, spans: list[Span], options: Any) -> None:
    if not spans:
        raise RuntimeError("the profiler saw no kernels: is another profiler attached to this process?")
    by_name, between = kernels(spans, options.cycles), gaps(spans, options.cycles)
    busy, idle = (sum(cost.microseconds for cost in costs) for costs in (by_name, between))
    record.results.append(
        {
            "requests": size,
            "draft_length": options.draft_length,
            "cycle_us": 1e6 * clean,
            "profiled_cycle_us": 1e6 * profiled,
            "kernels_us": busy,
            "gaps_us": idle,
            "kernels": [vars(cost) for cost in by_name],
            "gaps": [vars(cost) for cost in between[: 4 * options.most]],
        }
    )
    record.notes.append(
        f"B = {size}: a cycle takes {1e6 * clean:.0f} µs, {1e6 * profiled:.0f} µs under the profiler: {busy:.0f} µs of"
        f" kernels, {idle:.0f} µs of gaps between {len(spans) / options.cycles:.0f} kernels"
    )
    for costs in (by_name, between):
        for cost in costs[: options.most]:
            share = cost.microseconds / (1e6 * profiled)
            cells = (f"{cost.microseconds:.1f}", f"{cost.count:.1f}", f"{share:.1%}", _short(cost.name, NAME))
            record.rows.append((str(size), cost.kind, *cells))


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
