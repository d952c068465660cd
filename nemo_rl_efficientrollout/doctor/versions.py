"""Versions of what the driver's environment has."""

import sys
from pathlib import Path

from .. import __version__
from ..engine.versions import DISTRIBUTIONS, SUPPORTED
from .finding import Finding
from .interpreter import Replies, check_up

DISTRIBUTION = "nemo-rl-efficientrollout"
OTHERS = {"NeMo-RL": "nemo-rl", "megatron-core": "megatron-core", "ray": "ray"}
"""Distributions by the name of their finding."""
TRANSFORMER_ENGINE = "transformer_engine"


def driver_replies() -> Replies:
    """What the driver's own environment has, asked in a process of its own: a broken torch cannot end this one."""
    questions = {
        "versions": {"distributions": [DISTRIBUTION, *DISTRIBUTIONS, *OTHERS.values()]},
        "device": {},
        "imported": {"module": TRANSFORMER_ENGINE},
    }
    return check_up(Path(sys.executable), questions)


def version_findings(replies: Replies, nemo_rl_source: Path | None) -> list[Finding]:
    """One finding per package; what a worker's environment may have instead is at most a warning here."""
    installed = replies["versions"].answer or {}
    findings = [_package(installed), Finding("Python", "ok", sys.version.split()[0]), _torch(replies)]
    findings += [_vllm(installed), _transformer_engine(replies)]
    for name, distribution in OTHERS.items():
        version = installed.get(distribution)
        if version is None and name == "NeMo-RL" and nemo_rl_source is not None:
            version = f"from source, in {nemo_rl_source}"
        if version is None:
            findings.append(Finding(name, "warn", "not installed in the driver's environment", _needed_for(name)))
        else:
            findings.append(Finding(name, "ok", version))
    return findings


def _package(installed: dict[str, str | None]) -> Finding:
    if installed.get(DISTRIBUTION) is None:
        line = f"{__version__}, not installed: its entry point cannot be seen"
        return Finding("nemo_rl_efficientrollout", "warn", line, "pip install it, or put its wheel on PYTHONPATH")
    return Finding("nemo_rl_efficientrollout", "ok", __version__)


def _torch(replies: Replies) -> Finding:
    found, error = replies["device"]
    if error is not None:
        return Finding("torch", "warn", error, "the workers' environments count, see below")
    return Finding("torch", "ok", f"{found['version']}, {cuda(found)}")


def cuda(device: dict[str, str | None]) -> str:
    """What torch was built for."""
    return f"CUDA {device['cuda']}" if device["cuda"] else "without CUDA"


def _vllm(installed: dict[str, str | None]) -> Finding:
    found = next(filter(None, map(installed.get, DISTRIBUTIONS)), None)
    if found is None:
        return Finding(
            "vLLM", "warn", "not installed in the driver's environment", "a worker's environment must have it"
        )
    if found.split("+")[0] not in SUPPORTED:
        advice = f"where it runs, install one of {', '.join(SUPPORTED)}"
        return Finding("vLLM", "warn", f"{found}, not supported", advice)
    return Finding("vLLM", "ok", f"{found}, supported")


def _transformer_engine(replies: Replies) -> Finding:
    version, error = replies["imported"]
    name = "Transformer Engine"
    if error is None:
        return Finding(name, "ok", version or "imports, version unknown")
    advice = "only the gate's first guess on FP8 GPUs, and NeMo's trainers, use it"
    return Finding(name, "warn", f"does not import: {error}", advice)


def _needed_for(name: str) -> str:
    return {
        "NeMo-RL": "not needed to drive vLLM directly",
        "megatron-core": "needed in the trainer's environment, by Megatron policies",
        "ray": "needed by NeMo-RL",
    }[name]
