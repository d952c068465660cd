"""Whether vLLM's processes in an environment will have this package, of the same version, and active."""

from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..engine.checkup import PLUGIN
from ..engine.versions import DISTRIBUTIONS, SUPPORTED
from .environments import Environment
from .finding import Finding, Verdict
from .interpreter import Replies
from .versions import cuda

QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "versions": {"distributions": [*DISTRIBUTIONS, "ray"]},
    "package": {},
    "admitted": {},
    "active": {},
    "device": {},
    "lacks_fp8": {},
}


def plugin_findings(environment: Environment, replies: Replies, driver: Mapping[str, str | None]) -> list[Finding]:
    """Findings on one environment, from its replies to `QUESTIONS`.

    Args:
        driver: versions in the driver's environment, by distribution and `python`.
    """
    bad: Verdict = "fail" if environment.needed else "warn"
    installed, error = replies["versions"]
    if error is not None:  # not even the standard library
        line = f"{environment.python}: {error}"
        return [Finding(f"environment [{environment.name}]", bad, line, "build this environment again")]
    findings = [
        _contents(environment, replies, bad),
        _package(environment, replies, bad),
        _active(environment, replies, bad),
    ]
    if environment.has_ray:
        findings += _ray(environment, installed, driver, bad)
    return findings


def is_active(replies: Replies) -> bool:
    """Whether vLLM made the plugin active in that environment."""
    return replies["active"].error is None


def _contents(environment: Environment, replies: Replies, bad: Verdict) -> Finding:
    name, installed = f"environment [{environment.name}]", replies["versions"].answer
    vllm = next(filter(None, map(installed.get, DISTRIBUTIONS)), None)
    one_of = f"one of {', '.join(SUPPORTED)}"
    if vllm is None:
        return Finding(name, bad, f"{environment.python} has no vLLM", f"install {one_of} there")
    device = replies["device"]
    torch = f"torch does not load ({device.error})" if device.error else f"torch {device.answer['version']}"
    line = f"Python {installed['python']}, vLLM {vllm}, {torch}"
    if vllm.split("+")[0] not in SUPPORTED:
        return Finding(name, bad, f"{line}: this vLLM is not supported", f"install {one_of} there")
    if device.error:
        return Finding(name, bad, line, "mend torch there")
    return Finding(name, "ok", f"{line}, {cuda(device.answer)}")


def _package(environment: Environment, replies: Replies, bad: Verdict) -> Finding:
    name = f"package [{environment.name}]"
    install = f"install nemo_rl_efficientrollout {__version__} with {environment.python}"
    found, error = replies["package"]
    if error is not None:
        return Finding(name, bad, f"does not import there: {error}", install)
    if found["version"] != __version__:
        return Finding(name, bad, f"{found['version']}, but the driver has {__version__}", install)
    return Finding(name, "ok", f"{found['version']}, as in the driver")


def _active(environment: Environment, replies: Replies, bad: Verdict) -> Finding:
    name = f"plugin [{environment.name}]"
    (answer, error), active = replies["admitted"], replies["active"]
    if error is None and not answer["visible"]:
        line = f"the entry point '{PLUGIN}' of vllm.general_plugins cannot be seen"
        return Finding(
            name, bad, line, f"install the package's wheel with {environment.python}: its code is not enough"
        )
    allowed = None if error is not None else answer["allowed"]
    if allowed is not None and PLUGIN not in allowed:
        advice = f"unset VLLM_PLUGINS, or add {PLUGIN} to it"
        return Finding(name, bad, f"VLLM_PLUGINS={','.join(allowed)} keeps it out", advice)
    if active.error is not None:
        advice = f"mend what {environment.python} cannot load"
        return Finding(name, bad, f"vLLM did not make it active: {active.error}", advice)
    return Finding(name, "ok", "vLLM loads it, and it is active")


def _ray(
    environment: Environment, installed: Mapping[str, str | None], driver: Mapping[str, str | None], bad: Verdict
) -> list[Finding]:
    """Ray refuses workers of another version than the driver's, or of another minor version of Python."""
    if driver.get("ray") is None:
        return []
    name = f"ray [{environment.name}]"
    ours, theirs = ((found.get("ray"), _minor(found.get("python"))) for found in (driver, installed))
    if ours != theirs:
        line = f"Ray {theirs[0]} on Python {theirs[1]}, but the driver has Ray {ours[0]} on Python {ours[1]}"
        return [Finding(name, bad, line, "build the environments of one NeMo-RL")]
    return [Finding(name, "ok", f"{theirs[0]}, as in the driver")]


def _minor(version: str | None) -> str:
    """`3.13` of `3.13.5`."""
    return ".".join((version or "").split(".")[:2])
