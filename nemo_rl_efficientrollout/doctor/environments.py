"""Which interpreters run vLLM: NeMo-RL gives its Ray workers virtual environments of their own.

Source: nemo_rl/utils/venvs.py and nemo_rl/distributed/ray_actor_environment_registry.py of
https://github.com/NVIDIA-NeMo/RL; the image sets NEMO_RL_VENV_DIR to /opt/ray_venvs.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from ..engine.versions import installed_vllm
from ..errors import UserError
from .finding import Finding
from .job import Job
from .versions import DISTRIBUTION

SYNC_WORKER = "nemo_rl.models.generation.vllm.vllm_worker.VllmGenerationWorker"
ASYNC_WORKER = "nemo_rl.models.generation.vllm.vllm_worker_async.VllmAsyncGenerationWorker"
TRAINER_WORKER = "nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker"
VENV_DIR, SYSTEM = "NEMO_RL_VENV_DIR", "NEMO_RL_PY_EXECUTABLES_SYSTEM"
IMAGE_VENVS = Path("/opt/ray_venvs")


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment that vLLM runs in, or could."""

    name: str
    """`driver`, the class of a NeMo-RL worker, or the interpreter's path."""
    python: Path
    needed: bool
    """Whether the job will use it: what is wrong in another is only a warning."""
    has_ray: bool = False
    """Whether it runs a worker of the driver's Ray cluster."""


def nemo_rl_root() -> Path | None:
    """The folder that holds the package `nemo_rl`, which is not imported; None without NeMo-RL."""
    found = find_spec("nemo_rl")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))).parent


def find_environments(
    job: Job, more: Sequence[Path] = (), variables: Mapping[str, str] = os.environ, image_venvs: Path = IMAGE_VENVS
) -> tuple[list[Environment], Finding]:
    """The environments that run vLLM, and a finding on whether there is any.

    Args:
        job: says which of NeMo-RL's workers will be used; without a configuration, all that are there.
        more: interpreters to look at as well.

    Raises:
        UserError: one of `more` is not there.
    """
    for python in more:
        if not os.access(python, os.X_OK) or python.is_dir():
            raise UserError(f"--worker-python {python} is no interpreter: give a path such as .venv/bin/python")
    given = [Environment(str(python), python, needed=True) for python in more]
    if variables.get(SYSTEM) == "1":
        driver = Environment("driver", Path(sys.executable), needed=True)
        return [driver, *given], Finding("worker environments", "ok", f"the driver's own, as {SYSTEM} is 1")
    workers = _workers(job, variables, image_venvs)
    found = [*workers, *given]
    if installed_vllm() is not None:
        found.insert(0, Environment("driver", Path(sys.executable), needed=not found and nemo_rl_root() is None))
    return found, _whether_any_is_there(found, job, variables)


def trainer_environment(variables: Mapping[str, str] = os.environ, image_venvs: Path = IMAGE_VENVS) -> Path | None:
    """The interpreter of NeMo-RL's Megatron policy workers; None where it was not built yet."""
    if variables.get(SYSTEM) == "1":
        return Path(sys.executable)
    pythons = [folder / TRAINER_WORKER / "bin" / "python" for folder in _folders(variables, image_venvs)]
    return next(filter(Path.exists, pythons), None)


def _workers(job: Job, variables: Mapping[str, str], image_venvs: Path) -> list[Environment]:
    """NeMo-RL's vLLM workers in the first folder that has any."""
    used = {None: (SYNC_WORKER, ASYNC_WORKER), False: (SYNC_WORKER,), True: (ASYNC_WORKER,)}[job.async_engine]
    for folder in _folders(variables, image_venvs):
        pythons = {worker: folder / worker / "bin" / "python" for worker in (SYNC_WORKER, ASYNC_WORKER)}
        found = [
            Environment(worker.rpartition(".")[2], python, needed=worker in used, has_ray=True)
            for worker, python in pythons.items()
            if python.exists()
        ]
        if found:
            return found
    return []


def _folders(variables: Mapping[str, str], image_venvs: Path) -> list[Path]:
    """Where NeMo-RL looks for its workers' environments, and where its image has them."""
    if VENV_DIR in variables:
        return [Path(variables[VENV_DIR])]
    root = nemo_rl_root()
    return [image_venvs] if root is None else [root / "venvs", image_venvs]


def _whether_any_is_there(found: list[Environment], job: Job, variables: Mapping[str, str]) -> Finding:
    name = "worker environments"
    needed = [environment.name for environment in found if environment.needed]
    if needed:
        return Finding(name, "ok", f"vLLM runs in: {', '.join(needed)}")
    if nemo_rl_root() is None:
        advice = "install vLLM here, or name an interpreter that has it with --worker-python"
        return Finding(name, "fail", "no environment with vLLM", advice)
    which = (ASYNC_WORKER if job.async_engine else SYNC_WORKER).rpartition(".")[2]
    line = f"NeMo-RL will build the environment of {which} when the job starts"
    if _on_python_path(variables):
        advice = "check again when it is built"
        return Finding(name, "warn", f"{line}; this package is on PYTHONPATH, which it is handed", advice)
    advice = "build it before (python -m nemo_rl.utils.prefetch_venvs) and install this package there"
    return Finding(name, "fail", f"{line}, without this package", advice)


def _on_python_path(variables: Mapping[str, str]) -> bool:
    """Whether the package, entry points included, lies in a folder of PYTHONPATH, which NeMo-RL hands to workers."""
    try:
        folder = Path(str(distribution(DISTRIBUTION).locate_file(""))).resolve()
    except PackageNotFoundError:  # a checkout: the code is there, its entry point is not
        return False
    entries = variables.get("PYTHONPATH", "").split(os.pathsep)
    return any(Path(entry).resolve() == folder for entry in entries if entry)
