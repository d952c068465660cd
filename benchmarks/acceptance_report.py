"""What was measured of drafters, as rows, results and notes of a record."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from .positions import Estimate, Positions
from .record import Record
from .trained import LISTS, LONG


@dataclass(frozen=True)
class Drafter:
    """One engine's drafter."""

    format: str
    lm_head: bool = True
    simulate: bool = True
    dtype: str = "bfloat16"
    temperature: float = 1.0
    reinforced: bool = True
    """Whether to measure it after reinforcement too."""

    @property
    def label(self) -> str:
        parts = [
            self.format,
            "" if self.lm_head else "policy's head",
            "" if self.simulate else "kernel",
            "" if self.dtype == "bfloat16" else self.dtype,
            "" if self.temperature else "greedy",
        ]
        return ", ".join(filter(None, parts))

    def settings(self, longest: int) -> dict[str, Any]:
        return {
            "drafter": {"format": self.format, "lm_head": self.lm_head, "simulate": self.simulate},
            "refit": {"refresh": "on_evidence"},
            "draft_length": {"max": longest},
            "gate": {"mode": "fixed", "draft_length": longest},
            "strict": True,
        }


EXACT = Drafter("bf16", dtype="float32", temperature=0.0, reinforced=False)
"""The control: nothing is quantized and nothing is drawn, so every draft must be accepted."""


@dataclass(frozen=True)
class Answers:
    """One answer to each problem of a kind."""

    positions: Positions
    tokens: float
    """Of an answer, on average."""
    reward: float


@dataclass(frozen=True)
class Measured:
    """One drafter against one policy."""

    drafter: Drafter
    update: int
    """GRPO updates that the policy has taken."""
    frozen: bool
    answers: dict[str, Answers]
    """By kind of problem."""
    error: float | None
    """‖drafter's weights - policy's‖ / ‖policy's‖ over the quantized layers; None where a kernel hides them."""
    share: float
    """Of the weights that a token reads, those that are quantized."""

    @property
    def weights(self) -> str:
        return "frozen" if self.frozen else "fresh"


def report(record: Record, measured: Measured, longest: int) -> None:
    """Add one drafter's rows and results."""
    gammas = range(1, longest + 1)
    drafted = sum(answers.positions.drafted for answers in measured.answers.values())
    error = "" if measured.error is None else f", error {measured.error:.2%}"
    lines = []
    for kind, answers in measured.answers.items():
        rates = [answers.positions.rate(position) for position in gammas]
        lengths = [answers.positions.length(gamma) for gamma in gammas]
        if kind == LONG:  # positions of the other differ by less than can be seen
            lines.append((f"{kind} α %", *(_cell(rate, 100.0) for rate in rates)))
        lines.append((f"{kind} τ", *(_cell(length) for length in lengths)))
        record.results.append(
            {
                "update": measured.update,
                "drafter": measured.drafter.label,
                "format": measured.drafter.format,
                "lm_head": measured.drafter.lm_head,
                "frozen": measured.frozen,
                "lists": kind,
                "weight_error": measured.error,
                "share_quantized": measured.share,
                "requests": len(answers.positions.reached),
                "drafted_tokens": answers.positions.drafted,
                "reached_by_position": answers.positions.reached.sum(axis=0).tolist(),
                "accepted_by_position": answers.positions.kept.sum(axis=0).tolist(),
                "acceptance_by_position": [rate._asdict() for rate in rates],
                "acceptance_length_by_draft_length": [length._asdict() for length in lengths],
                "answer_tokens": answers.tokens,
                "reward": answers.reward,
            }
        )
    heads = (
        (str(measured.update), measured.drafter.label),
        ("", f"{measured.weights}{error}"),
        ("", f"{drafted} drafted"),
    )
    record.rows += [(*head, *line) for head, line in zip(heads, lines, strict=True)]


def _cell(estimate: Estimate, scale: float = 1.0) -> str:
    """Value and half the interval, or the whole of it where it lies below."""
    below = estimate.value == estimate.high
    width = scale * (estimate.high - estimate.low) / (1 if below else 2)
    return f"{scale * estimate.value:.2f}{'−' if below else '±'}{f'{width:.2f}'.removeprefix('0')}"


def interval(estimate: Estimate, form: str) -> str:
    """Value and 95 % interval."""
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def notes(measured: list[Measured], longest: int) -> list[str]:
    """What the rows say together, and how to read them."""
    said = []
    for update in sorted({one.update for one in measured}):
        for kind, (shortest, most) in LISTS.items():
            sampled = [one.answers[kind] for one in measured if one.update == update and one.drafter.temperature]
            said.append(
                f"update {update}, {kind} lists ({shortest} to {most} numbers): {mean(a.tokens for a in sampled):.0f}"
                f" tokens an answer, reward {mean(a.reward for a in sampled):.2f}"
            )
    frozen = {one.drafter: one for one in measured if one.frozen}
    for one in measured:
        if one.update and not one.frozen and one.drafter in frozen:
            then = frozen[one.drafter].answers
            gains = {
                kind: answers.positions.longer_than(then[kind].positions, longest)
                for kind, answers in one.answers.items()
            }
            shown = ", ".join(f"{kind} lists {interval(gain, '.3f')}" for kind, gain in gains.items())
            said.append(f"{one.drafter.label}: τ({longest}) fresh less frozen: {shown}")
    exact = [a.positions for one in measured if one.drafter == EXACT for a in one.answers.values()]
    verdict = "holds" if all((p.kept == p.reached).all() for p in exact) else "DOES NOT HOLD"
    return [
        *said,
        f"control, every draft of {EXACT.label} is accepted: {verdict}, {sum(p.drafted for p in exact)} drafted tokens",
        "α: of drafts reached at a position, those accepted, in per cent; τ(γ): tokens per verification, from α;"
        " ± half of the 95 % interval from drawing requests again; − down to its end by the rule of three where nothing"
        " was rejected",
        f"a number of a list takes about 8 tokens of the answer and a full step {longest + 1}, so that drafts meet the"
        " same spots again and again: probably why positions differ, and why τ derived for shorter drafts is"
        " approximate",
        "error: norm of the drafter's weights less the policy's, over the policy's; fp8_block does not take this"
        " model's 64 rows of keys, of values and of the head and shares them with the policy, so that its two lines at"
        " update 0 are of one drafter",
        "all but 'kernel' compute with dequantized weights and leave activations alone; frozen: the quantized weights"
        " of update 0, everything shared with the policy is new",
        "acceptance is no timing: a disturbed run says the same",
    ]
