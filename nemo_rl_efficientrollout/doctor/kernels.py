"""Which drafter formats have a kernel of vLLM's in an environment, on the device that it sees."""

from ..config import DrafterSettings
from .environments import Environment
from .finding import Finding, Verdict
from .interpreter import Replies

SIDE = 256
"""Of the weight that is asked about: one that every format takes."""
QUESTIONS = {"kernels": {"side": SIDE}}


def kernel_finding(environment: Environment, replies: Replies, wanted: DrafterSettings) -> Finding:
    """Bad only if the wanted format has none, and is not simulated."""
    name = f"kernels [{environment.name}]"
    kernels, error = replies["kernels"]
    bad: Verdict = "fail" if environment.needed else "warn"
    if error is not None:
        return Finding(name, "not checked", error, "see the other checks of this environment")
    there = [f"{form}: {found['kernel']}" for form, found in kernels.items() if "kernel" in found]
    missing = [form for form, found in kernels.items() if "missing" in found]
    simulated = " (simulated)" if wanted.simulate else ""
    line = "; ".join([*there, *([f"none for {', '.join(missing)}"] if missing else [])])
    if wanted.format in missing and not wanted.simulate:
        advice = f"set drafter.format to one of {', '.join(set(kernels) - set(missing)) or 'those of other hardware'}"
        return Finding(name, bad, f"{wanted.format} {kernels[wanted.format]['missing']}; here {line}", advice)
    return Finding(name, "ok", f"{line}; the job uses {wanted.format}{simulated}")
