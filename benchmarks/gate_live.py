"""The live gate against the best fixed draft length, found by brute force on the same engine.

The engine is calibrated first, by its own tool. Then one batch decodes, and every few steps another mode has its turn:
γ pinned to each length, 0 included, and the gate; every second round runs backwards. What the machine does to one mode
within a minute it does to all. Regret is the best fixed length's speed over the gate's, less one: the price of choosing
without knowing.

Tokens are counted by expectation: how many drafts of position i are accepted does not depend on who chose γ, so one
acceptance by position is measured over all fixed modes and every step of γ counts as τ(γ) tokens per request. Seconds
are as measured. A mode's speed is the median over its turns: one turn during which something else had the machine
would outweigh all others in a mean.
"""

import gc
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .cpu_speedup import SHARPNESS
from .drafting import WARM_UP, DraftingDecoder
from .measure import new_engine, set_environment
from .model import SHAPES, save_random_model
from .record import Progress, Record, at_least, check_writable, new_parser, whole_numbers

GOAL_REGRET, GOAL_PLAIN = 0.02, 0.99
DRAWS = 1000
AUTO = "auto"


def main(arguments: list[str] | None = None) -> int:
    """Calibrate, measure, print, write."""
    parser = new_parser("gate_live", (__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 2, 4, 8, 16), help="B; default: 1,2,4,8,16")
    parser.add_argument("--draft-lengths", type=whole_numbers(1), default=(1, 2, 3, 5, 7), help="default: 1,2,3,5,7")
    parser.add_argument("--model-shape", choices=SHAPES, default="0.5b", help="default: 0.5b")
    parser.add_argument("--rounds", type=at_least(2), default=16, help="default: 16")
    parser.add_argument("--steps", type=at_least(4), default=16, help="of a mode before the next one; default: 16")
    parser.add_argument("--calibrate-seconds", type=float, default=60.0, help="0: probes only; default: 60")
    parser.add_argument(
        "--sharpness", type=float, default=SHARPNESS, help=f"of the random head; default: {SHARPNESS:g}"
    )
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.model_shape, options.sizes, options.draft_lengths = "tiny", (1, 2), (1, 3)
        options.rounds, options.steps, options.calibrate_seconds = 2, 8, 3.0
    set_environment()
    progress = Progress(options.quiet)
    names = ("sizes", "draft_lengths", "model_shape", "rounds", "steps", "calibrate_seconds", "sharpness", "quick")
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
            _report(record, _measure(engine, size, options, progress))
            record.write(options.json, options.markdown)  # a batch size takes ten minutes: what is done is kept
    record.notes += [
        "regret: speed of the best fixed γ over that of the gate, less one; 95 % intervals from drawing rounds",
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
        longest=_longest_round(options),
    )
    return DraftingDecoder(llm, shape.vocabulary)


def _longest_round(options: Any) -> int:
    """Tokens that a request grows by if every draft is accepted; one more mode for the gate, one turn to spare."""
    turns = [0, *options.draft_lengths, max(options.draft_lengths), max(options.draft_lengths)]
    return sum((length + 1) * (options.steps + WARM_UP) for length in turns)


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


def _measure(engine: DraftingDecoder, size: int, options: Any, progress: Progress) -> "Measured":
    measured = Measured(size, [*options.draft_lengths])
    for index in range(-1, options.rounds):  # the first round warms up, and lets the gate see this batch size
        with progress.phase(f"B = {size}, round {index + 1} of {options.rounds}"):
            engine.pin(0)
            engine.start(size, longest=engine.room, seed=index)
            for mode in measured.modes if index % 2 == 0 else reversed(measured.modes):
                engine.leave_to_gate() if mode == AUTO else engine.pin(int(mode))
                segment = _segment(engine, options.steps)
                if index >= 0:
                    measured.segments[mode].append(segment)
            engine.stop()
    return measured


def _segment(engine: DraftingDecoder, steps: int) -> "Segment":
    for _ in range(WARM_UP):
        engine.step()
    gc.collect()
    engine.timeline()
    before = engine.stats()["accepted_by_position"]
    seconds = sum(engine.step().seconds for _ in range(steps))
    after, timeline = engine.stats()["accepted_by_position"], engine.timeline()
    lengths = [int(length) for length in timeline["draft_length"]]
    return Segment(seconds, lengths, [b - a for a, b in zip(before, after, strict=True)])


class Segment(NamedTuple):
    """Consecutive steps of one mode."""

    seconds: float
    lengths: list[int]
    """γ that each step verified."""
    accepted: list[int]
    """Drafts accepted at each position."""


@dataclass
class Measured:
    """All segments of one batch size; `segments[mode][i]` belongs to round i."""

    size: int
    draft_lengths: list[int]
    segments: dict[str, list[Segment]] = field(default_factory=lambda: defaultdict(list))

    @property
    def modes(self) -> list[str]:
        return ["0", *map(str, self.draft_lengths), AUTO]

    def acceptance_lengths(self) -> list[float]:
        """τ by γ, from the drafts of all fixed modes: at position i, accepted over those accepted at i - 1."""
        reached, kept = [0] * max(self.draft_lengths), [0] * max(self.draft_lengths)
        for length in self.draft_lengths:
            for segment in self.segments[str(length)]:
                alive = self.size * sum(verified == length for verified in segment.lengths)
                for position in range(length):
                    reached[position] += alive
                    kept[position] += segment.accepted[position]
                    alive = segment.accepted[position]
        lengths, chance = [1.0], 1.0
        for kept_here, reached_here in zip(kept, reached, strict=True):
            chance *= kept_here / max(reached_here, 1)
            lengths.append(lengths[-1] + chance)
        return lengths

    def speed(self, mode: str, rounds: Sequence[int], lengths: Sequence[float]) -> float:
        """Tokens per second, median over the given rounds."""
        turns = [self.segments[mode][i] for i in rounds]
        return median(self.size * sum(lengths[γ] for γ in turn.lengths) / turn.seconds for turn in turns)

    def ratio(self, above: str, below: str) -> dict[str, float]:
        """Speed of one mode over another's, with a 95 % interval by drawing whole rounds again."""
        lengths, count = self.acceptance_lengths(), len(self.segments[above])
        chance = random.Random(0)

        def one(rounds: Sequence[int]) -> float:
            return self.speed(above, rounds, lengths) / self.speed(below, rounds, lengths)

        draws = sorted(one(chance.choices(range(count), k=count)) for _ in range(DRAWS))
        return {"value": one(range(count)), "low": draws[int(0.025 * DRAWS)], "high": draws[int(0.975 * DRAWS) - 1]}


def _report(record: Record, measured: Measured) -> None:
    everything, lengths = range(len(measured.segments[AUTO])), measured.acceptance_lengths()
    speeds = {mode: measured.speed(mode, everything, lengths) for mode in measured.modes}
    best = max((mode for mode in speeds if mode != AUTO), key=speeds.__getitem__)
    against = measured.ratio(best, AUTO)
    regret = {name: value - 1.0 for name, value in against.items()}
    for mode, speed in speeds.items():
        ratio = measured.ratio(mode, "0")
        label = f"{mode} (best)" if mode == best else mode
        shown = f"{regret['value']:.1%} ({regret['low']:.1%} to {regret['high']:.1%})" if mode == AUTO else ""
        interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}"
        record.rows.append((str(measured.size), label, f"{speed:.1f}", f"{ratio['value']:.3f}", interval, shown))
        record.results.append(
            {
                "requests": measured.size,
                "mode": mode,
                "seconds": [segment.seconds for segment in measured.segments[mode]],
                "tokens_per_second": speed,
                "over_plain": ratio,
                **({"regret": regret, "best": best} if mode == AUTO else {}),
            }
        )
    counts = Counter(length for segment in measured.segments[AUTO] for length in segment.lengths)
    shares = ", ".join(f"γ {length}: {count / counts.total():.0%}" for length, count in sorted(counts.items()))
    taus = ", ".join(f"{length:.2f}" for length in lengths[1:])
    record.notes.append(f"B = {measured.size}: the gate's steps: {shares}; τ of γ 1…{len(lengths) - 1}: {taus}")


if __name__ == "__main__":
    sys.exit(main())
