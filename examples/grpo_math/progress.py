"""What the user sees while the job runs: one line per step, on stderr so that stdout stays free."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from nemo_rl_efficientrollout.alarm import Alarm

from .record import Step


class Progress:
    """Prints phases and steps; silent when `quiet`."""

    def __init__(self, steps: int, quiet: bool, stream: TextIO):
        self.steps = steps
        self.console = Console(file=stream, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def phase(self, text: str) -> Iterator[Status]:
        """Show `text`, which the block may update, while the block runs."""
        with self.console.status(text) as status:
            yield status

    def step(self, step: Step) -> None:
        """One finished training step."""
        lengths = step.response_tokens
        drafts = (
            f"accepted {step.acceptance_rate:4.0%} τ {step.acceptance_length:.2f}"
            if step.acceptance_rate is not None and step.acceptance_length is not None
            else "no drafts"
        )
        self.say(
            f"step {step.step:3d}/{self.steps}  reward [bold]{step.reward:.2f}[/]  "
            f"rollout {step.rollout_seconds:5.2f} s  train {step.train_seconds:5.2f} s  "
            f"refit {step.refit_seconds:4.2f} s  tokens {step.tokens} "
            f"(median {lengths['median']:.0f}, longest {lengths['max']:.0f})  {drafts}"
        )

    def alarm(self, alarm: Alarm) -> None:
        """What has just begun to go wrong."""
        self.say(f"[bold red]alarm {alarm.name}:[/] {escape(alarm.text)}")


class Warnings(logging.Handler):
    """Shows EfficientRollout's own warnings among the progress lines: they must not drown in a log."""

    def __init__(self, progress: Progress):
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(f"[yellow]{escape(record.getMessage())}[/]")
