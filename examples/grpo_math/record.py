"""What a run leaves on disk: `steps.jsonl`, `report.json` and, at the end, `report.html`."""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from nemo_rl_efficientrollout.alarm import Alarm
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import append_whole, write_whole

from .account import account_fields

if TYPE_CHECKING:
    from .engine import Rollout

TIMELINES_KEPT = 4
"""Steps whose decode-by-decode timeline stays in report.json: the file stays small in long runs."""
FILES = ("report.json", "report.html", "steps.jsonl", "problems.jsonl")
"""Of an earlier run with the same name; or links, which are not followed."""


@dataclass
class Step:
    """Everything measured in one training step; times in seconds."""

    step: int
    reward: float
    loss: float | None
    entropy: float | None
    grad_norm: float | None
    rollout_seconds: float
    reward_seconds: float
    train_seconds: float
    refit_seconds: float
    total_seconds: float
    tokens: int
    response_tokens: dict[str, float]
    drafts: int
    drafted_tokens: int
    accepted_tokens: int
    acceptance_rate: float | None
    acceptance_length: float | None
    speculating_fraction: float | None
    draft_length_mean: float | None
    policy_version: int
    drafter_version: int
    drafter_version_lag: int
    requantize_seconds: float
    metrics: dict[str, float]
    """The engine's, as NeMo-RL would have them."""
    seconds_spent: dict[str, float]
    predicted_ratio: dict[str, float] | None
    timeline: dict[str, Any] = field(repr=False)


def rollout_fields(rollout: "Rollout") -> dict[str, Any]:
    """The fields of `Step` that one rollout decides; None where there was nothing to divide by."""
    counts, lengths = rollout.counts, [len(response) for response in rollout.responses]
    drafts, drafted, accepted = (counts[k] for k in ("drafts", "drafted_tokens", "accepted_tokens"))
    decode_steps, chosen = counts["decode_steps"], rollout.timeline["draft_length"]
    return {
        "rollout_seconds": rollout.seconds,
        "tokens": rollout.tokens,
        "response_tokens": {"mean": mean(lengths), "median": median(lengths), "max": max(lengths)},
        "drafts": drafts,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_length": accepted / drafts + 1 if drafts else None,
        "speculating_fraction": counts["speculating_steps"] / decode_steps if decode_steps else None,
        "draft_length_mean": mean(chosen) if chosen else None,
        "metrics": rollout.metrics,
        **account_fields(rollout),
    }


class Record:
    """Writes the run's files; report.json is replaced after each step and is always whole."""

    def __init__(self, run_dir: Path, **facts: Any):
        """Start the files of a run. `facts` (name, settings, model, machine) head its report."""
        self.run_dir = run_dir
        self.report_path = run_dir / "report.json"
        self.steps: list[Step] = []
        self.alarms: list[dict[str, Any]] = []
        self.rollout_ratio: dict[str, Any] | None = None
        self._facts = facts
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            for stale in FILES:
                (run_dir / stale).unlink(missing_ok=True)
            (run_dir / "steps.jsonl").write_text("")

    def add(self, step: Step, alarms: Sequence[Alarm] = ()) -> None:
        """Append one finished step, with the alarms that it raised, and rewrite the report."""
        self.steps.append(step)
        self.alarms += [{"step": step.step, "name": alarm.name, "text": alarm.text} for alarm in alarms]
        line = asdict(step)
        del line["timeline"]
        with writing(self.run_dir):
            append_whole(self.run_dir / "steps.jsonl", (json.dumps(finite(line)) + "\n").encode())
        self.write_json()

    def report(self) -> dict[str, Any]:
        """The content of report.json: a list holds one value per finished step, the versions are the latest."""

        def column(name: str) -> list[Any]:
            return [getattr(step, name) for step in self.steps]

        lists = (
            "reward", "loss", "rollout_seconds", "reward_seconds", "train_seconds", "refit_seconds",
            "total_seconds", "response_tokens", "acceptance_rate", "acceptance_length",
            "speculating_fraction", "draft_length_mean", "drafter_version_lag", "requantize_seconds",
            "seconds_spent", "predicted_ratio",
        )  # fmt: skip
        return {
            **self._facts,
            "steps": len(self.steps),
            "tokens": sum(column("tokens")),
            "policy_version": self.steps[-1].policy_version if self.steps else 0,
            "drafter_version": self.steps[-1].drafter_version if self.steps else 0,
            **{name: column(name) for name in lists},
            "timeline": column("timeline")[-TIMELINES_KEPT:],
            "alarms": self.alarms,
            "rollout_ratio": self.rollout_ratio,
        }

    def write_json(self) -> None:
        with writing(self.run_dir):
            write_whole(self.report_path, json.dumps(finite(self.report()), allow_nan=False).encode())

    def write_html(self) -> Path:
        """Write and return report.html."""
        from nemo_rl_efficientrollout.report import write_report

        path = self.run_dir / "report.html"
        with writing(self.run_dir):
            write_report(finite(self.report()), path)
        return path


def check_writable(place: Path) -> None:
    """Make the folder if need be and write a byte there. Raises UserError; a link could lead anywhere."""
    if place.is_symlink():
        raise UserError(f"'{place}' is a link: remove it or choose another --name; --runs-dir may be one")
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")


class writing:  # noqa: N801 - reads as a word: `with writing(place):`
    """Turns trouble with the disk into one clear line that names the folder."""

    def __init__(self, place: Path):
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            where = error.filename or self.place
            raise UserError(
                f"cannot write '{where}': {error.strerror}; make room there or choose another place with --runs-dir"
            ) from error


def finite(value: Any) -> Any:
    """The same value with None for each NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
