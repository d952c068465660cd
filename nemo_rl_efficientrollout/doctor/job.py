"""What the job will be, as far as the checks depend on it: from NeMo-RL's configuration, or defaults."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config import KEY, Settings, read_settings
from ..errors import UserError
from ..nemo_rl.launcher import read_config
from ..nemo_rl.translation import find_generation, is_ours, translated
from .finding import Finding

NAME = "NeMo-RL configuration"


@dataclass(frozen=True, slots=True)
class Job:
    """Of the rollouts."""

    settings: Settings = field(default_factory=Settings)
    model: Path | None = None
    """Folder of the policy; None if it is not known, or not on this machine."""
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that vLLM may take."""
    async_engine: bool | None = None
    """Which of NeMo-RL's vLLM workers; None if it is not known."""
    enforce_eager: bool = True
    """Of the engine's trial."""
    folders: tuple[Path, ...] = ()
    """That the job will write to."""


def read_job(path: Path, overrides: Sequence[str] = ()) -> tuple[Job, Finding]:
    """The job of a NeMo-RL configuration, and whether this package can run it.

    What is wrong with the combination of settings is the finding; the job then has this package's defaults.

    Raises:
        UserError: the file or an override cannot be read.
    """
    if find_spec("nemo_rl") is None:
        advice = "run this in NeMo-RL's container or environment"
        return Job(), Finding(NAME, "fail", f"NeMo-RL is not installed here, so {path} was not read", advice)
    config = read_config(path, overrides)
    where, generation = find_generation(config)
    try:
        ours = generation is not None and is_ours(generation, where)
        config = translated(config)
        job = _job(config)
    except UserError as error:
        return _job(config, with_settings=False), Finding(NAME, "fail", str(error), "mend the configuration")
    if not ours:
        advice = f"set {where}.backend={KEY}"
        return job, Finding(NAME, "warn", f"{path} does not use this package", advice)
    return job, Finding(NAME, "ok", f"{path}: format {job.settings.drafter.format}, gate {job.settings.gate.mode}")


def _job(config: Mapping[str, Any], with_settings: bool = True) -> Job:
    generation = _block(config, "policy", "generation") or _block(config, "generation")
    vllm = _block(generation, "vllm_cfg")
    model = _block(config, "policy").get("model_name")
    folders = (_block(config, "logger").get("log_dir"), _block(config, "checkpointing").get("checkpoint_dir"))
    usual = Job()
    return Job(
        settings=read_settings(generation.get(KEY)) if with_settings else Settings(),
        model=Path(model) if isinstance(model, str) and os.path.isdir(model) else None,
        tensor_parallel=_number(vllm, "tensor_parallel_size", usual.tensor_parallel, 10**4),
        gpu_memory_utilization=_number(vllm, "gpu_memory_utilization", usual.gpu_memory_utilization, 1.0),
        async_engine=bool(vllm.get("async_engine", False)),
        enforce_eager=bool(vllm.get("enforce_eager", False)),
        folders=tuple(Path(folder) for folder in folders if isinstance(folder, str)),
    )


def _block(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A nested mapping; empty where a key is missing or holds none."""
    for key in keys:
        value = config.get(key)
        config = value if isinstance(value, Mapping) else {}
    return config


def _number(block: Mapping[str, Any], key: str, default: Any, most: float) -> Any:
    """A number of the default's type above 0; the default where there is none, which is not the doctor's to judge."""
    value: Any = block.get(key)
    kinds = (int, float) if isinstance(default, float) else (int,)
    return value if type(value) in kinds and 0 < value <= most else default
