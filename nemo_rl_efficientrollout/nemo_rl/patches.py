"""The names of NeMo-RL that are replaced in the launcher's process, and nowhere else.

NeMo-RL has no hook for metrics of an extension. Each patch names what it takes the place of and which arguments it
counts on; where NeMo-RL has something else there, nothing is patched and the launcher stops.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..alarm import RINGING, ROOM, Alarm, Alarms
from ..config import KEY
from ..errors import UnsupportedError
from ..patching import is_wrapped, wrap
from .expected import expect_parameters
from .metrics import REQUANTIZE, step_metrics
from .trainer import register_policy_worker
from .translation import find_generation


class Patch(NamedTuple):
    """A function that is replaced by `make(function)`."""

    module: str
    name: str
    """In the module, dotted for a method."""
    parameters: str
    """Which it must have, among others; separated by spaces."""
    make: Callable[[Any], Any]


def install(config: Mapping[str, Any]) -> None:
    """Prepare this process for a translated configuration. Safe to call again.

    Raises:
        UnsupportedError: this NeMo-RL does not have what is patched.
    """
    found = [(patch, *_find(patch)) for patch in PATCHES]
    for patch, owner, name in found:
        if not is_wrapped(owner, name):
            wrap(owner, name, patch.make)
    _, generation = find_generation(config)
    if generation is not None and generation[KEY]["refit"]["quantize_on"] == "trainer":
        register_policy_worker()


def _find(patch: Patch) -> tuple[Any, str]:
    """What holds the name, and the last part of it."""
    try:
        owner = importlib.import_module(patch.module)
        *path, name = patch.name.split(".")
        for part in path:
            owner = getattr(owner, part)
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(f"this NeMo-RL has no {patch.module}.{patch.name} ({error}); {_CURE}") from None
    expect_parameters(owner, name, patch.parameters, _CURE)
    return owner, name


_CURE = "use `efficientrollout run … --print-overrides` with NeMo-RL's own script, which needs no patch"


def _with_our_metrics(original: Any) -> Any:
    def compute(start_counters: Any, end_counters: Any) -> dict[str, float]:
        return original(start_counters, end_counters) | step_metrics(start_counters, end_counters)

    return compute


def _with_alarms(original: Any) -> Any:
    """Metrics of a training step come as one mapping: ours among them are looked at, those of the refit sorted out."""
    alarms = Alarms()

    def log_metrics(logger: Any, metrics: Any, step: int, prefix: str | None = "", *args: Any, **kwargs: Any) -> None:
        if prefix == "train" and any(name.startswith(ROOM) for name in metrics):
            if REQUANTIZE in metrics:
                rest = {name: value for name, value in metrics.items() if name != REQUANTIZE}
                original(logger, {REQUANTIZE: metrics[REQUANTIZE]}, step, "")
                metrics = rest
            for alarm in alarms.observe(metrics):
                _raise_alarm(logger, alarm, step)
            metrics = {**metrics, RINGING: float(len(alarms.ringing))}
        original(logger, metrics, step, prefix, *args, **kwargs)

    return log_metrics


def _raise_alarm(logger: Any, alarm: Alarm, step: int) -> None:
    line = f"step {step}: {alarm.text}"
    print(f"⚠️ EfficientRollout, {line}", flush=True)
    wandb_logger = getattr(logger, "wandb_logger", None)
    if wandb_logger is not None:
        wandb_logger.run.alert(title=f"EfficientRollout: {alarm.name}", text=line, level="WARN")


def _without_reading_a_checkpoint(original: Any) -> Any:
    """NeMo-RL reads the whole checkpoint where a drafter would start from noise. Ours starts from the first refit."""

    def configure(config: Any, *args: Any, **kwargs: Any) -> Any:
        if KEY in config and not kwargs.get("is_eval"):
            kwargs["has_refit_draft_weights"] = True
        return original(config, *args, **kwargs)

    return configure


PATCHES = (
    Patch(
        "nemo_rl.models.generation.vllm.vllm_generation",
        "compute_spec_decode_metrics",
        "start_counters end_counters",
        _with_our_metrics,
    ),
    Patch("nemo_rl.utils.logger", "Logger.log_metrics", "metrics step prefix", _with_alarms),
    Patch(
        "nemo_rl.models.generation",
        "configure_generation_config",
        "config is_eval has_refit_draft_weights",
        _without_reading_a_checkpoint,
    ),
)
