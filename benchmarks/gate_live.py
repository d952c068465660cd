"""The live gate against the best fixed draft length, found by brute force on the same engine.

The engine is calibrated first, by its own tool. Then one round decodes one block with γ pinned to each length, 0
included, and one with the gate; a mode's speed is the median over rounds, and every second round runs backwards.
Regret is the best fixed length's speed over the gate's, less one: the price of choosing without knowing.
"""

import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from .cpu_speedup import SHARPNESS
from .drafting import WARM_UP, DraftingDecoder
from .measure import Block, new_engine, ratio_interval, set_environment
from .model import SHAPES, save_random_model
from .record import Progress, Record, at_least, check_writable, new_parser, whole_numbers

GOAL_REGRET, GOAL_PLAIN = 0.02, 0.99
AUTO = "auto"


def main(arguments: list[str] | None = None) -> int:
    """Calibrate, measure, print, write."""
    parser = new_parser("gate_live", (__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 2, 4, 8, 16), help="B; default: 1,2,4,8,16")
    parser.add_argument("--draft-lengths", type=whole_numbers(1), default=(1, 2, 3, 5, 7), help="default: 1,2,3,5,7")
    parser.add_argument("--model-shape", choices=SHAPES, default="0.5b", help="default: 0.5b")
    parser.add_argument("--rounds", type=at_least(2), default=4, help="default: 4")
    parser.add_argument("--tokens", type=at_least(8), default=96, help="per request and block; default: 96")
    parser.add_argument("--calibrate-seconds", type=float, default=60.0, help="0: probes only; default: 60")
    parser.add_argument(
        "--sharpness", type=float, default=SHARPNESS, help=f"of the random head; default: {SHARPNESS:g}"
    )
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.model_shape, options.sizes, options.draft_lengths = "tiny", (1, 2), (1, 3)
        options.rounds, options.tokens, options.calibrate_seconds = 2, 16, 3.0
    set_environment()
    progress = Progress(options.quiet)
    names = ("sizes", "draft_lengths", "model_shape", "rounds", "tokens", "calibrate_seconds", "sharpness", "quick")
    record = Record(
        "gate_live",
        f"the gate against the best fixed draft length, int8 drafter, T = 1, model shape {options.model_shape}",
        {name: getattr(options, name) for name in names},
        ("B", "γ", "tokens/s", "over γ = 0", "95 % interval", "regret of the gate"),
    )
    with tempfile.TemporaryDirectory() as directory:
        with progress.phase("building model and engine"):
            engine = _engine(Path(directory), options)
        with progress.phase("calibrating"):
            record.notes.append(_start_gate(engine, Path(directory), options))
        for size in options.sizes:
            _report(record, size, *_measure(engine, size, options, progress))
    record.notes += [
        "regret: speed of the best fixed γ over that of the gate, less one; medians over rounds",
        f"goals: regret at most {GOAL_REGRET:.0%}, and at least {GOAL_PLAIN} of plain decoding, at every B",
        "α comes from a random model: it says nothing about a trained one",
    ]
    record.finish(options)
    return 0


def _engine(directory: Path, options: Any) -> DraftingDecoder:
    shape = SHAPES[options.model_shape]
    settings = {
        "drafter": {"format": "int8"},
        "draft_length": {"max": max(options.draft_lengths)},
        "gate": {"mode": "off"},
        "strict": True,
    }
    llm = new_engine(
        save_random_model(directory, shape, options.sharpness),
        settings,
        requests=max(options.sizes),
        longest=4 * options.tokens + 16 * (max(options.draft_lengths) + 1) * WARM_UP,
    )
    return DraftingDecoder(llm, shape.vocabulary)


def _start_gate(engine: DraftingDecoder, directory: Path, options: Any) -> str:
    """Calibrate and give the gate the file, as a user would; returns what was done."""
    from nemo_rl_efficientrollout.engine.calibrate import calibrate
    from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, save

    if not options.calibrate_seconds:
        engine.leave_to_gate()
        return "not calibrated: the gate started from probes"
    done = calibrate(engine.llm, options.calibrate_seconds)
    file = directory / "calibration.json"
    save(from_fit(done.fit, done.timings, Provenance(source="benchmarks.gate_live")), file)
    engine.leave_to_gate(str(file))
    loads = ", ".join(f"{load.batch}×{load.context:g}" for load in done.loads)
    return f"calibrated in {done.seconds:.1f} s on {len(done.timings)} steps at loads (requests × context) {loads}"


def _measure(
    engine: DraftingDecoder, size: int, options: Any, progress: Progress
) -> tuple[dict[str, list[Block]], Counter[int]]:
    """Blocks of every mode, and how many steps the gate took with each γ."""
    modes = ["0", *map(str, options.draft_lengths), AUTO]
    blocks: dict[str, list[Block]] = defaultdict(list)
    lengths: Counter[int] = Counter()
    for index in range(-1, options.rounds):  # the first round warms up, and lets the gate see this batch size
        with progress.phase(f"B = {size}, round {index + 1} of {options.rounds}"):
            for mode in modes if index % 2 == 0 else reversed(modes):
                engine.leave_to_gate() if mode == AUTO else engine.pin(int(mode))
                engine.timeline()
                block = engine.decode(size, warm_up=WARM_UP, tokens=options.tokens)
                if index >= 0:
                    blocks[mode].append(block)
                    if mode == AUTO:
                        lengths.update(int(length) for length in engine.timeline()["draft_length"])
    return blocks, lengths


def _report(record: Record, size: int, blocks: dict[str, list[Block]], lengths: Counter[int]) -> None:
    speeds = {mode: median(block.tokens_per_second for block in own) for mode, own in blocks.items()}
    best = max((mode for mode in speeds if mode != AUTO), key=speeds.__getitem__)
    regret = speeds[best] / speeds[AUTO] - 1.0
    for mode, own in blocks.items():
        pairs = [([b.tokens_per_second], [p.tokens_per_second]) for b, p in zip(own, blocks["0"], strict=True)]
        ratio, low, high = ratio_interval(pairs)
        label = f"{mode} (best)" if mode == best else mode
        shown = f"{regret:.1%}" if mode == AUTO else ""
        cells = (f"{speeds[mode]:.1f}", f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", shown)
        record.rows.append((str(size), label, *cells))
        record.results.append(
            {
                "requests": size,
                "mode": mode,
                "tokens_per_second": [block.tokens_per_second for block in own],
                "over_plain": {"value": ratio, "low": low, "high": high},
                **({"regret": regret, "best": best, "steps": dict(lengths)} if mode == AUTO else {}),
            }
        )
    shares = ", ".join(f"γ {length}: {count / lengths.total():.0%}" for length, count in sorted(lengths.items()))
    record.notes.append(f"B = {size}: the gate's steps: {shares}")


if __name__ == "__main__":
    sys.exit(main())
