"""Every setting, validated once. The only place that knows defaults.

Reads a plain mapping, an OmegaConf node (NeMo-RL's `policy.generation.efficientrollout`) and the dict that vLLM
carries to every process as `additional_config["efficientrollout"]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import SettingsError, UserError, nearest, shown
from .files import parse_json

KEY = "efficientrollout"
"""The key of this package's block in vLLM's `additional_config` and in NeMo-RL's `policy.generation`."""

FormatName = Literal["int4", "int4_symmetric", "int8", "fp8", "fp8_block", "bf16"]
GateMode = Literal["auto", "fixed", "off", "random"]
MAX_DRAFT_LENGTH = 32
"""Longest γ accepted. Acceptance α would have to exceed 0.99 for a longer draft to pay at any cost ratio."""


MAX_REQUESTS = 10**6
"""Most requests in a batch, for which nothing is reserved until they are there."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DrafterSettings(_Block):
    """How the drafter is made from the policy."""

    format: FormatName = "int8"
    """Number format of the drafter's linear weights; `bf16` is the identity, for proofs."""
    lm_head: bool = True
    """Quantize the output head too: a fifth of what a drafter reads per token."""
    simulate: bool = False
    """Compute with dequantized weights: any format's acceptance on any machine, without its speed."""


class RefitSettings(_Block):
    """How the drafter follows the policy."""

    refresh: Literal["every", "on_evidence"] = "every"
    """When to re-quantize: at every refit, or only when acceptance was measured to have fallen since the last time."""
    quantize_on: Literal["engine", "trainer"] = "engine"
    """Who quantizes: the engine what arrives, or the trainer, which sends the drafter's weights in the same stream."""

    @model_validator(mode="after")
    def _trainer_sends_every_time(self) -> "RefitSettings":
        if self.quantize_on == "trainer" and self.refresh != "every":
            raise ValueError(
                "refit.refresh is 'on_evidence', but with refit.quantize_on 'trainer' every refit brings a"
                " drafter: set it to 'every'"
            )
        return self


class DraftLengthSettings(_Block):
    """How far the drafter may run ahead."""

    max: int = Field(default=5, ge=1, le=MAX_DRAFT_LENGTH)
    """Largest γ. KV-cache slots for it are reserved for every request."""
    max_requests: int = Field(default=64, ge=1, le=MAX_REQUESTS)
    """Largest batch that is drafted for. Bounds the memory of draft distributions, which grow with batch and γ."""


class GateSettings(_Block):
    """Whether and how far to speculate at each step."""

    mode: GateMode = "auto"
    """`auto`: by measured time and acceptance; `fixed`: always `draft_length`; `off`: plain decoding;
    `random`: uniform over 0…max at every step, for tests."""
    draft_length: int | None = Field(default=None, ge=0, le=MAX_DRAFT_LENGTH)
    """γ of mode `fixed`, refused in any other mode."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of mode `random`."""
    calibration: str | None = None
    """File of `efficientrollout calibrate` from which mode `auto` starts; without one it probes the machine."""

    @field_validator("mode", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _draft_length_belongs_to_fixed(self) -> "GateSettings":
        if self.mode == "fixed" and self.draft_length is None:
            raise ValueError("gate.mode is 'fixed': set gate.draft_length")
        if self.mode != "fixed" and self.draft_length is not None:
            raise ValueError("gate.draft_length is used in gate.mode 'fixed' only: remove one of the two")
        if self.mode != "auto" and self.calibration is not None:
            raise ValueError("gate.calibration is used in gate.mode 'auto' only: remove one of the two")
        return self


class Settings(_Block):
    """All settings of EfficientRollout."""

    drafter: DrafterSettings = DrafterSettings()
    refit: RefitSettings = RefitSettings()
    draft_length: DraftLengthSettings = DraftLengthSettings()
    gate: GateSettings = GateSettings()
    strict: bool = False
    """Turn "cannot be built, decoding plainly" into an error."""

    @model_validator(mode="after")
    def _fixed_length_within_max(self) -> "Settings":
        check_gate(self.gate, self.draft_length.max)
        return self


def check_gate(gate: GateSettings, max_draft_length: int) -> GateSettings:
    """Refuse a fixed γ for which no KV-cache slots are reserved."""
    if gate.draft_length is not None and gate.draft_length > max_draft_length:
        raise ValueError(
            f"gate.draft_length is {gate.draft_length}, above draft_length.max = {max_draft_length}: raise the latter"
        )
    return gate


def read_settings(source: Any = None) -> Settings:
    """Validate settings from a mapping, an OmegaConf node, a `Settings` or None (all defaults).

    Raises:
        SettingsError: one line with the key, what was expected and what to do.
    """
    return _read(Settings, source, where="")


def read_gate(source: Any, max_draft_length: int) -> GateSettings:
    """Validate a `gate` block that arrives while the engine runs. Raises SettingsError."""
    gate = _read(GateSettings, source, where="gate.")
    try:
        return check_gate(gate, max_draft_length)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _read(model: type[_Block], source: Any, where: str) -> Any:
    if isinstance(source, model):
        return source
    try:
        return model.model_validate(_plain(source))
    except ValidationError as error:
        raise SettingsError(_one_line(error, model, where)) from None


def _plain(source: Any) -> Any:
    """A plain dict from None, a mapping or an OmegaConf node (duck-typed: omegaconf is no dependency)."""
    if source is None:
        return {}
    if type(source).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            return OmegaConf.to_container(source, resolve=True)
        except OmegaConfBaseException as error:
            raise SettingsError(f"efficientrollout settings cannot be resolved: {error}") from None
    if not isinstance(source, Mapping):
        raise SettingsError(
            f"efficientrollout settings must be a mapping of keys to values, not {type(source).__name__}"
        )
    return dict(source)


def _one_line(error: ValidationError, model: type[_Block], where: str) -> str:
    first = error.errors(include_url=False)[0]
    key = where + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(_keys(model, where))
        return f"unknown setting '{key}'{nearest(key, [*known, *model.model_fields])}; known: {', '.join(known)}"
    if first["type"] == "value_error":  # our own validators name their keys
        return str(first.get("ctx", {})["error"])
    return f"setting '{key}': {first['msg'][0].lower()}{first['msg'][1:]}, got {shown(first['input'])}"


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        block = field.annotation
        if isinstance(block, type) and issubclass(block, BaseModel):
            keys += _keys(block, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`["gate.mode=fixed", "draft_length.max=3"]` as the nested mapping that `read_settings` takes.

    Values are JSON where they parse as JSON (`3`, `true`, `null`), else strings. Raises SettingsError.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not all(key.split(".")):
            raise SettingsError(f"setting '{pair}' must look like key=value, for example gate.mode=off")
        *blocks, leaf = key.split(".")
        node = tree
        for block in blocks:
            node = node.setdefault(block, {})
            if not isinstance(node, dict):
                raise SettingsError(f"setting '{key}': '{block}' was given a value and cannot have keys")
        node[leaf] = _value(value)
    return tree


def _value(text: str) -> Any:
    try:
        return parse_json(text, "", "")
    except UserError:  # a text that is no JSON is meant as it stands
        return text
