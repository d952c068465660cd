"""int8 self-speculation against plain BF16 decoding on a CPU, at temperature 1.

One round decodes one block in every mode: plain (a stock engine), γ pinned to 0 and to each draft length, and the
gate left to itself. A mode's ratio is taken against the plain block of its own round, so that slow drifts of the
machine cancel; every second round runs backwards.

T_D and T_V(γ) come from blocks of their own, which steady decoding does not share: the gate is switched before
every step, γ, 0, γ, 0, …. A step that verifies nothing and drafts γ costs T_T + γ T_D; the next one verifies γ and
drafts nothing, and costs T_V(γ). What they predict for steady decoding is then a test, not a tautology.
"""

import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from nemo_rl_efficientrollout.config import MAX_DRAFT_LENGTH

from .drafting import WARM_UP, DraftingDecoder
from .measure import Block, Decoder, new_engine, ratio_interval, set_environment
from .model import SHAPES, Shape, save_random_model
from .record import Progress, Record, at_least, check_writable, new_parser, whole_numbers

GOAL_BEST, GOAL_GATE = 1.3, 0.99
"""At B = 1 the best γ of 3…7; at every B the gate."""
SHARPNESS = 5.0
"""Scale of the random head at which int8 drafts are accepted nearly as often as in the paper: 0.93 to 0.97."""


@dataclass
class Measured:
    """All blocks of one batch size."""

    plain: list[Block] = field(default_factory=list)
    by_length: dict[int, list[Block]] = field(default_factory=lambda: defaultdict(list))
    gate: list[Block] = field(default_factory=list)
    drafting_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Steps that verify nothing and draft γ."""
    verifying_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Steps that verify γ and draft nothing."""
    counts: dict[int, "Counts"] = field(default_factory=dict)
    gate_lengths: dict[int, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class Counts:
    """Acceptance at one γ."""

    drafts: int = 0
    accepted: list[int] = field(default_factory=list)

    def add(self, before: dict[str, Any], after: dict[str, Any], length: int) -> None:
        now, then = after["accepted_by_position"][:length], before["accepted_by_position"][:length]
        gained = [late - early for late, early in zip(now, then, strict=True)]
        self.drafts += after["drafts"] - before["drafts"]
        self.accepted = [a + b for a, b in zip(self.accepted or [0] * length, gained, strict=True)]

    @property
    def acceptance_length(self) -> float:
        """τ."""
        return 1 + sum(self.accepted) / self.drafts

    @property
    def by_position(self) -> list[float]:
        """α_i: accepted at i over accepted at i - 1."""
        reached = [self.drafts, *self.accepted]
        return [kept / max(came, 1) for came, kept in zip(reached, self.accepted, strict=False)]

    @property
    def mean(self) -> float:
        """α over all positions reached."""
        return sum(self.accepted) / (self.drafts + sum(self.accepted[:-1]))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("cpu_speedup", (__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 2, 4), help="B; default: 1,2,4")
    parser.add_argument("--draft-lengths", type=whole_numbers(1), default=(1, 2, 3, 5, 7), help="γ; default: 1,2,3,5,7")
    parser.add_argument("--model-shape", choices=SHAPES, default="0.5b", help="default: 0.5b")
    parser.add_argument("--rounds", type=at_least(2), default=6, help="default: 6")
    parser.add_argument("--tokens", type=at_least(8), default=96, help="per request and block; default: 96")
    parser.add_argument(
        "--sharpness", type=float, default=SHARPNESS, help=f"scale of the random head; default: {SHARPNESS:g}"
    )
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if max(options.draft_lengths) > MAX_DRAFT_LENGTH:
        parser.error(f"argument --draft-lengths: {max(options.draft_lengths)} is above {MAX_DRAFT_LENGTH}")
    if not 0 < options.sharpness <= 1000:
        parser.error(f"argument --sharpness: {options.sharpness:g} is not above 0 and at most 1000")
    if options.quick:
        options.model_shape, options.sizes, options.draft_lengths = "tiny", (1, 2), (1, 3)
        options.rounds, options.tokens = 2, 16
    set_environment()
    progress = Progress(options.quiet)
    shape = SHAPES[options.model_shape]
    names = ("sizes", "draft_lengths", "model_shape", "rounds", "tokens", "sharpness", "compiled", "quick")
    record = Record(
        "cpu_speedup",
        f"int8 self-speculation over plain BF16 decoding, T = 1, model shape {options.model_shape}",
        {name: getattr(options, name) for name in names} | {"shape": shape.describe()},
        ("B", "γ", "T_T ms", "T_D ms", "T_V ms", "α", "τ", "ratio", "95 % interval", "predicted", "limit"),
    )
    with tempfile.TemporaryDirectory() as directory:
        with progress.phase("building model and engines"):
            plain, ours = _engines(Path(directory), shape, options)
        for size in options.sizes:
            measured = _measure(plain, ours, size, options, progress)
            _report(record, measured, size, shape)
            for row in record.rows[-len(measured.counts) - 2 :]:  # nothing is lost if a later size fails
                progress.say(f"B = {row[0]}, γ {row[1]}: ratio {row[7]} ({row[8]})")
    record.notes += _notes(shape)
    record.finish(options)
    return 0


def _engines(directory: Path, shape: Shape, options: Any) -> tuple[Decoder, DraftingDecoder]:
    model = save_random_model(directory, shape, options.sharpness)
    settings = {
        "drafter": {"format": "int8"},
        "draft_length": {"max": max(options.draft_lengths)},
        "gate": {"mode": "off"},
        "strict": True,
    }
    shared = {
        "requests": max(options.sizes),
        # Requests of one batch do not advance alike: leave the fastest one room.
        "longest": 4 * options.tokens + 16 * (max(options.draft_lengths) + 1) * WARM_UP,
        "compiled": options.compiled,
    }
    plain = Decoder(new_engine(model, None, **shared), shape.vocabulary)
    return plain, DraftingDecoder(new_engine(model, settings, **shared), shape.vocabulary)


def _measure(plain: Decoder, ours: DraftingDecoder, size: int, options: Any, progress: Progress) -> Measured:
    measured = Measured(counts={length: Counts() for length in options.draft_lengths})
    modes = ["plain", 0, *options.draft_lengths, "gate"]

    def run(mode: str | int) -> None:
        if mode == "plain":
            measured.plain.append(plain.decode(size, warm_up=WARM_UP, tokens=options.tokens))
        elif mode == "gate":
            ours.leave_to_gate()
            ours.timeline()
            measured.gate.append(ours.decode(size, warm_up=WARM_UP, tokens=options.tokens))
            for length in ours.timeline()["draft_length"]:
                measured.gate_lengths[int(length)] += 1
        else:
            length = int(mode)
            ours.pin(length)
            before = ours.stats()
            block = ours.decode(size, warm_up=WARM_UP, tokens=options.tokens)
            measured.by_length[length].append(block)
            if length:
                measured.counts[length].add(before, ours.stats(), length)
                drafting, verifying = ours.split(size, length, pairs=max(4, options.tokens // 8))
                measured.drafting_seconds[length] += drafting
                measured.verifying_seconds[length] += verifying

    for mode in modes:  # first steps of a mode stall; the gate gets this round to learn
        run(mode)
    measured = Measured(counts={length: Counts() for length in options.draft_lengths})
    for index in range(options.rounds):
        with progress.phase(f"B = {size}, round {index + 1} of {options.rounds}"):
            for mode in modes if index % 2 == 0 else reversed(modes):
                run(mode)
    return measured


def _report(record: Record, measured: Measured, size: int, shape: Shape) -> None:
    def ratio(blocks: list[Block]) -> tuple[float, float, float]:
        pairs = zip(blocks, measured.plain, strict=True)
        return ratio_interval([([b.tokens_per_second], [p.tokens_per_second]) for b, p in pairs])

    def add(label: str, blocks: list[Block], cells: list[str], result: dict[str, Any]) -> None:
        value, low, high = ratio(blocks)
        record.rows.append((str(size), label, *cells[:5], f"{value:.3f}", f"{low:.3f} to {high:.3f}", *cells[5:]))
        record.results.append(
            {
                "requests": size,
                "mode": label,
                "ratio": {"value": value, "low": low, "high": high},
                "tokens_per_second": [block.tokens_per_second for block in blocks],
                "plain_tokens_per_second": [block.tokens_per_second for block in measured.plain],
                **result,
            }
        )

    target = median(step.seconds for block in measured.plain for step in block.steps)
    target_ms = f"{1e3 * target:.2f}"
    add("0", measured.by_length[0], [target_ms, "", "", "", "", "", ""], {"target_ms": 1e3 * target})
    for length, counts in measured.counts.items():
        # Plain steps of the same engine and run are what drafting steps exceed.
        base = median(step.seconds for block in measured.by_length[0] for step in block.steps)
        drafter = (median(measured.drafting_seconds[length]) - base) / length
        verify = median(measured.verifying_seconds[length])
        tau = counts.acceptance_length
        predicted = tau * target / (length * drafter + verify)
        limit = tau / (1 + length * shape.byte_ratio)
        cells = [
            target_ms,
            f"{1e3 * drafter:.2f}",
            f"{1e3 * verify:.2f}",
            f"{counts.mean:.3f}",
            f"{tau:.2f}",
            f"{predicted:.3f}",
            f"{limit:.2f}",
        ]
        result = {
            "draft_length": length,
            "target_ms": 1e3 * target,
            "drafter_ms": 1e3 * drafter,
            "verify_ms": 1e3 * verify,
            "acceptance_rate": counts.mean,
            "acceptance_by_position": counts.by_position,
            "acceptance_length": tau,
            "predicted_ratio": predicted,
            "byte_limit": limit,
        }
        add(str(length), measured.by_length[length], cells, result)
    steps = sum(measured.gate_lengths.values())
    shares = {length: count / steps for length, count in sorted(measured.gate_lengths.items())}
    add("auto", measured.gate, [target_ms, "", "", "", "", "", ""], {"share_of_steps": shares})
    mix = ", ".join(f"γ {length}: {share:.0%}" for length, share in shares.items())
    longest = measured.counts[max(measured.counts)].by_position
    record.notes.append(f"B = {size}: the gate's steps: {mix}")
    record.notes.append(f"B = {size}: α by position: {', '.join(f'{rate:.3f}' for rate in longest)}")


def _notes(shape: Shape) -> list[str]:
    return [
        "ratio: tokens/s over those of stock vLLM, medians over rounds; γ = 0 is the control",
        "predicted: τ T_T / (γ T_D + T_V)",
        f"limit: τ / (1 + γ r), r = {shape.byte_ratio:.3f} the drafter's weight bytes over the target's: "
        "what a memory-bound machine could reach at this α if verification cost one plain step",
        "α comes from a random model: it says nothing about a trained one",
        f"goals: {GOAL_BEST} at B = 1 for some γ of 3 to 7, {GOAL_GATE} at every B for the gate (auto)",
    ]


if __name__ == "__main__":
    sys.exit(main())
