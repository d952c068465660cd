"""What this package costs while it does not speculate: γ pinned to 0 against stock vLLM.

All engines live in one process and take turns in blocks. Two processes would be a worse judge: each draws its own
memory layout and clock drift once and keeps it, a bias that no number of steps averages out. In one process that
bias remains between engines, so a second stock engine takes part as a control: its ratio, which ought to be 1,
says what this machine can resolve. Garbage collection is shared by all and thus no part of the ratio.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .measure import Block, Decoder, new_engine, ratio_interval, set_environment
from .model import SHAPES, save_random_model
from .record import Progress, Record, at_least, check_writable, new_parser, whole_numbers

GOAL = 1.01
ENGINES = ("stock", "off", "control")
ORDER = (*ENGINES, *reversed(ENGINES))
"""A/B/C/C/B/A: a drift that is linear in time cancels within a round."""
CONTROL = "control: a second stock engine over the first; how far from 1 it is, is noise"
COLUMNS = ("B", "stock ms", "γ = 0 ms", "ratio", "95 % interval", "control ratio", "95 % interval", "goal")
WARM_UP = 16
"""Steps dropped at the start of a block: caches then hold this engine's weights."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("overhead", (__doc__ or "").splitlines()[0])
    parser.add_argument("--model-shape", choices=SHAPES, default="0.5b", help="default: 0.5b")
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 4, 16), help="default: 1,4,16")
    parser.add_argument("--rounds", type=at_least(2), default=8, help="rounds of six blocks; default: 8")
    parser.add_argument("--steps", type=at_least(10), default=40, help="per block; default: 40")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.model_shape, options.sizes, options.rounds, options.steps = "tiny", (1, 2), 2, 20
    set_environment()
    progress = Progress(options.quiet)
    record = Record(
        "overhead",
        f"Step time with γ = 0 over stock vLLM, model shape {options.model_shape}",
        {key: getattr(options, key) for key in ("model_shape", "sizes", "rounds", "steps", "compiled", "quick")},
        COLUMNS,
    )
    with tempfile.TemporaryDirectory() as directory:
        with progress.phase("building model and engines"):
            decoders = _engines(Path(directory), options)
        for size in options.sizes:
            compare(record, lambda name, *how, **more: decoders[name].decode(*how, **more), size, options, progress)
    record.notes.append(CONTROL)
    record.finish(options)
    return 0


def _engines(directory: Path, options) -> dict[str, Decoder]:
    shape = SHAPES[options.model_shape]
    model = save_random_model(directory, shape)
    return {
        name: Decoder(
            new_engine(
                model,
                {"gate": {"mode": "off"}, "strict": True} if name == "off" else None,
                requests=max(options.sizes),
                longest=options.steps + WARM_UP + 8,
                compiled=options.compiled,
            ),
            shape.vocabulary,
        )
        for name in ENGINES
    }


def compare(record: Record, decode: Callable[..., Block], size: int, options, progress: Progress) -> None:
    """Rounds of blocks at one batch size; `decode(name, size, …)` is `Decoder.decode` of the engine of that name."""
    rounds: list[dict[str, list[Block]]] = []
    for name in ENGINES:  # the first generate of an engine stalls for seconds
        decode(name, size, warm_up=WARM_UP, steps=10)
    for index in range(options.rounds):
        blocks: dict[str, list[Block]] = {name: [] for name in ENGINES}
        with progress.phase(f"B = {size}, round {index + 1} of {options.rounds}"):
            for name in ORDER:
                blocks[name].append(decode(name, size, warm_up=WARM_UP, steps=options.steps))
        rounds.append(blocks)
    seconds = [
        {name: [s.seconds for block in blocks[name] for s in block.steps] for name in ENGINES} for blocks in rounds
    ]
    off = ratio_interval([(r["off"], r["stock"]) for r in seconds])
    control = ratio_interval([(r["control"], r["stock"]) for r in seconds])
    milliseconds = {
        name: 1e3 * Block([s for r in rounds for b in r[name] for s in b.steps]).median_seconds for name in ENGINES
    }
    record.results.append(
        {
            "requests": size,
            "median_ms": milliseconds,
            "ratio": dict(zip(("value", "low", "high"), off, strict=True)),
            "control_ratio": dict(zip(("value", "low", "high"), control, strict=True)),
            "goal": GOAL,
            "met": off[0] <= GOAL,
            "round_medians_ms": [
                {name: [1e3 * block.median_seconds for block in r[name]] for name in ENGINES} for r in rounds
            ],
        }
    )
    record.rows.append(
        (
            str(size),
            f"{milliseconds['stock']:.3f}",
            f"{milliseconds['off']:.3f}",
            f"{off[0]:.4f}",
            f"{off[1]:.4f} to {off[2]:.4f}",
            f"{control[0]:.4f}",
            f"{control[1]:.4f} to {control[2]:.4f}",
            f"≤ {GOAL}: {'met' if off[0] <= GOAL else 'missed'}",
        )
    )
    progress.say(f"B = {size}: ratio {off[0]:.4f} ({off[1]:.4f} to {off[2]:.4f}), control {control[0]:.4f}")


if __name__ == "__main__":
    sys.exit(main())
