"""All checks, in the order in which a person would look."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .engine import engine_finding
from .environments import Environment, find_environments, nemo_rl_root, trainer_environment
from .finding import Finding
from .folders import folder_finding
from .gpu import driver_finding, gpu_finding, gpus_of
from .interpreter import Replies, check_up
from .job import Job
from .kernels import QUESTIONS as KERNEL_QUESTIONS
from .kernels import kernel_finding
from .memory import memory_finding
from .plugin import QUESTIONS as PLUGIN_QUESTIONS
from .plugin import is_active, plugin_findings
from .trainer import trainer_findings
from .versions import driver_replies, version_findings

Progress = Callable[[str], None]


def examine(
    job: Job,
    worker_pythons: Sequence[Path] = (),
    try_engines: bool | None = None,
    progress: Progress = lambda step: None,
) -> list[Finding]:
    """Everything about this machine that the job depends on.

    Args:
        worker_pythons: interpreters to look at besides those that NeMo-RL would use.
        try_engines: start the real engine; None does where there is a GPU.
        progress: told each step before it begins.

    Raises:
        UserError: an interpreter of `worker_pythons` or the job's model folder is not what it should be.
    """
    environments, are_there = find_environments(job, worker_pythons)
    progress("asking every environment about vLLM, plugin and kernels")
    with ThreadPoolExecutor() as pool:  # each waits for a process of its own
        asked = pool.submit(driver_replies)
        replied = pool.map(lambda one: check_up(one.python, {**PLUGIN_QUESTIONS, **KERNEL_QUESTIONS}), environments)
        looked_at = list(zip(environments, replied, strict=True))
        driver = asked.result()
    gpu_driver = driver_finding()
    findings = [*version_findings(driver, nemo_rl_root()), gpu_driver, are_there]
    installed = driver["versions"].answer or {}
    gpus = gpus_of(looked_at)
    findings.append(gpu_finding(gpus, gpu_driver))
    for environment, replies in looked_at:
        findings += plugin_findings(environment, replies, installed)
        findings.append(kernel_finding(environment, replies, job.settings.drafter))
    findings += trainer_findings(job, trainer_environment(), progress)
    findings.append(memory_finding(job, gpus))
    findings += map(folder_finding, job.folders)
    wanted = bool(gpus) if try_engines is None else try_engines
    findings += [_engine(environment, replies, job, wanted, progress) for environment, replies in looked_at]
    return findings


def _engine(environment: Environment, replies: Replies, job: Job, wanted: bool, progress: Progress) -> Finding:
    name = f"engine [{environment.name}]"
    if not wanted:
        return Finding(name, "not checked", "no engine was started", "--engine starts one")
    if not environment.needed:
        return Finding(name, "not checked", "the job does not use this environment")
    if not is_active(replies):
        return Finding(name, "not checked", "the plugin is not active there", "see above")
    progress(f"{environment.name}: drafting and verifying with a tiny model")
    return engine_finding(environment, job)
