"""What the user asked for, checked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout import Settings, read_settings
from nemo_rl_efficientrollout.config import parse_overrides
from nemo_rl_efficientrollout.errors import UserError, shown

LIMITS = {
    "steps": (1, 10**6),
    "prompts_per_step": (1, 10**5),
    "group": (2, 10**4),
    "max_new_tokens": (8, 10**7),
    "warm_start_steps": (1, 10**6),
    "seed": (0, 2**32 - 1),
}
"""Smallest and largest sensible values; a group of one answer has nothing to be compared with."""

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Options:
    """One job. Times are in seconds, lengths in tokens."""

    problems: Path | None
    model: Path | None
    prompt: str | None
    steps: int
    prompts_per_step: int
    group: int
    max_new_tokens: int
    temperature: float
    lr: float | None
    dtype: str
    seed: int
    name: str
    runs_dir: Path
    warm_start_steps: int
    compare: bool
    settings: Settings

    def __post_init__(self) -> None:
        for key, (least, most) in LIMITS.items():
            if not least <= (value := getattr(self, key)) <= most:
                raise UserError(f"--{key.replace('_', '-')} is {shown(value)}: give at least {least}, at most {most}")
        if not 0 < self.temperature <= 5:
            raise UserError(f"--temperature is {self.temperature}: give a number above 0, at most 5")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype is '{self.dtype}': give one of {', '.join(DTYPES)}")
        if self.lr is not None and not 0 < self.lr < 1:
            raise UserError(f"--lr is {self.lr}: give a number between 0 and 1")
        if (
            not self.name
            or Path(self.name).name != self.name
            or self.name.startswith(".")
            or not self.name.isprintable()
        ):
            raise UserError(f"--name is '{self.name}': give one folder name without slashes")
        if self.prompt is not None and "{problem}" not in self.prompt:
            raise UserError("--prompt has no '{problem}' in it: that is where the problem's text goes")

    @property
    def run_dir(self) -> Path:
        return self.runs_dir / self.name

    @property
    def rows(self) -> int:
        """Responses per step."""
        return self.prompts_per_step * self.group

    def as_dict(self) -> dict[str, Any]:
        """For the report: JSON types only."""
        values = asdict(self) | {"settings": self.settings.model_dump()}
        values["efficientrollout"] = values.pop("settings")
        return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def settings_from(assignments: list[str]) -> Settings:
    """EfficientRollout settings from `key.subkey=value` texts; values are JSON, or plain text.

    Raises:
        SettingsError: no `=`, an unknown key or a value that is not allowed.
    """
    return read_settings(parse_overrides(assignments))
