"""The live gate against the best fixed draft length, found by brute force on the same engine.

The engine is calibrated first, by its own tool. Then one batch decodes, and every few steps another mode has its turn:
γ pinned to each length, 0 included, and the gate. A second batch has them in reverse, which makes a round: what the
machine does to one mode within a minute it does to all, and all see the same contexts. Regret is the best fixed
length's speed over the gate's, less one: the price of choosing without knowing.

Tokens are counted by expectation: how many drafts of position i are accepted does not depend on who chose γ, so one
acceptance by position is measured over all fixed modes and every step of γ counts as τ(γ) tokens per request. Seconds
are as measured. A mode's speed is the median over rounds: one turn during which something else had the machine would
outweigh all others in a mean.

A second regret, of the choices alone, counts every step of the gate as long as the fixed modes' steps of its γ are at
the median. It leaves out what choosing itself takes (`gate_decision` measures that) and most of what neighbours did.
"""

import gc
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

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
    parser.add_argument("--rounds", type=at_least(2), default=8, help="there and back; default: 8")
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
        ("B", "γ", "tokens/s", "over γ = 0", "95 % interval", "regret of the gate", "of its choices"),
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
        "of its choices: the same, every step of the gate as long as fixed modes' steps of its γ are at the median",
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
            there = _batch(engine, size, measured.modes, options.steps, seed=2 * index)
            back = _batch(engine, size, measured.modes[::-1], options.steps, seed=2 * index + 1)
        if index >= 0:
            measured.rounds.append({mode: there[mode].and_also(back[mode]) for mode in measured.modes})
    return measured


def _batch(engine: DraftingDecoder, size: int, modes: list[str], steps: int, seed: int) -> dict[str, "Turn"]:
    """One batch of requests that sees all modes in this order."""
    engine.pin(0)
    engine.start(size, longest=engine.room, seed=seed)
    turns = {}
    for mode in modes:
        engine.leave_to_gate() if mode == AUTO else engine.pin(int(mode))
        turns[mode] = _turn(engine, steps)
    engine.stop()
    return turns


def _turn(engine: DraftingDecoder, steps: int) -> "Turn":
    for _ in range(WARM_UP):
        engine.step()
    gc.collect()
    engine.timeline()
    before = engine.stats()["accepted_by_position"]
    seconds = sum(engine.step().seconds for _ in range(steps))
    after, timeline = engine.stats()["accepted_by_position"], engine.timeline()
    lengths = [int(length) for length in timeline["draft_length"]]
    return Turn(seconds, lengths, [b - a for a, b in zip(before, after, strict=True)])


class Turn(NamedTuple):
    """Steps of one mode in one round."""

    seconds: float
    lengths: list[int]
    """γ that each step verified."""
    accepted: list[int]
    """Drafts accepted at each position."""

    def and_also(self, other: "Turn") -> "Turn":
        accepted = [a + b for a, b in zip(self.accepted, other.accepted, strict=True)]
        return Turn(self.seconds + other.seconds, self.lengths + other.lengths, accepted)


@dataclass
class Measured:
    """All rounds of one batch size: what each mode did in each."""

    size: int
    draft_lengths: list[int]
    rounds: list[dict[str, Turn]] = field(default_factory=list)

    @property
    def modes(self) -> list[str]:
        return ["0", *map(str, self.draft_lengths), AUTO]

    def acceptance_lengths(self) -> list[float]:
        """τ by γ, from the drafts of all fixed modes: at position i, accepted over those accepted at i - 1."""
        reached, kept = [0] * max(self.draft_lengths), [0] * max(self.draft_lengths)
        for length in self.draft_lengths:
            for turns in self.rounds:
                turn = turns[str(length)]
                alive = self.size * sum(verified == length for verified in turn.lengths)
                for position in range(length):
                    reached[position] += alive
                    kept[position] += turn.accepted[position]
                    alive = turn.accepted[position]
        lengths, chance = [1.0], 1.0
        for kept_here, reached_here in zip(kept, reached, strict=True):
            chance *= kept_here / max(reached_here, 1)
            lengths.append(lengths[-1] + chance)
        return lengths

    def speed(self, mode: str, rounds: Sequence[dict[str, Turn]], lengths: Sequence[float]) -> float:
        """Tokens per second, median over the given rounds."""
        turns = [turns[mode] for turns in rounds]
        return median(self.size * sum(lengths[γ] for γ in turn.lengths) / turn.seconds for turn in turns)

    def speed_of_choices(self, rounds: Sequence[dict[str, Turn]], lengths: Sequence[float]) -> float:
        """Tokens per second of the gate's γ, were each of its steps as long as the fixed modes' at the median.

        A γ that no mode was fixed to is as long as its neighbours let expect: a cycle's time is nearly linear in γ.
        """
        fixed = [0, *self.draft_lengths]
        seconds = [median(turns[str(γ)].seconds / len(turns[str(γ)].lengths) for turns in rounds) for γ in fixed]
        chosen = [γ for turns in rounds for γ in turns[AUTO].lengths]
        return self.size * sum(lengths[γ] for γ in chosen) / float(np.interp(chosen, fixed, seconds).sum())

    def interval(self, figure: Callable[[Sequence[dict[str, Turn]], Sequence[float]], float]) -> dict[str, float]:
        """A figure of rounds and τ by γ, with a 95 % interval by drawing whole rounds again."""
        lengths, chance = self.acceptance_lengths(), random.Random(0)
        drawn = (chance.choices(self.rounds, k=len(self.rounds)) for _ in range(DRAWS))
        draws = sorted(figure(rounds, lengths) for rounds in drawn)
        value = figure(self.rounds, lengths)
        return {"value": value, "low": draws[int(0.025 * DRAWS)], "high": draws[int(0.975 * DRAWS) - 1]}


def _report(record: Record, measured: Measured) -> None:
    lengths = measured.acceptance_lengths()
    speeds = {mode: measured.speed(mode, measured.rounds, lengths) for mode in measured.modes}
    best = max((mode for mode in speeds if mode != AUTO), key=speeds.__getitem__)
    regret = measured.interval(lambda r, τ: measured.speed(best, r, τ) / measured.speed(AUTO, r, τ) - 1.0)
    choices = measured.interval(lambda r, τ: measured.speed(best, r, τ) / measured.speed_of_choices(r, τ) - 1.0)
    for mode, speed in speeds.items():
        ratio = measured.interval(lambda r, τ, mode=mode: measured.speed(mode, r, τ) / measured.speed("0", r, τ))
        label = f"{mode} (best)" if mode == best else mode
        shown = (_percent(regret), _percent(choices)) if mode == AUTO else ("", "")
        interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}"
        record.rows.append((str(measured.size), label, f"{speed:.1f}", f"{ratio['value']:.3f}", interval, *shown))
        record.results.append(
            {
                "requests": measured.size,
                "mode": mode,
                "seconds": [turns[mode].seconds for turns in measured.rounds],
                "tokens_per_second": speed,
                "over_plain": ratio,
                **({"regret": regret, "regret_of_choices": choices, "best": best} if mode == AUTO else {}),
            }
        )
    counts = Counter(length for turns in measured.rounds for length in turns[AUTO].lengths)
    shares = ", ".join(f"γ {length}: {count / counts.total():.0%}" for length, count in sorted(counts.items()))
    taus = ", ".join(f"{length:.2f}" for length in lengths[1:])
    record.notes.append(f"B = {measured.size}: the gate's steps: {shares}; τ of γ 1…{len(lengths) - 1}: {taus}")


def _percent(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


if __name__ == "__main__":
    sys.exit(main())
