"""Whether the trainer's environment has this package, where the trainer quantizes."""

from collections.abc import Callable
from pathlib import Path

from .. import __version__
from .finding import Finding
from .interpreter import check_up
from .job import Job
from .versions import TRANSFORMER_ENGINE

NAME = "trainer environment"
MEGATRON = "megatron-core"


def trainer_findings(job: Job, python: Path | None, progress: Callable[[str], None]) -> list[Finding]:
    """On the interpreter of NeMo-RL's Megatron policy workers; none where the engine quantizes."""
    if job.settings.refit.quantize_on != "trainer":
        return []
    if python is None:
        advice = "build it before (python -m nemo_rl.utils.prefetch_venvs) and install this package there"
        return [Finding(NAME, "fail", "refit.quantize_on is 'trainer', but its environment is not there", advice)]
    progress("the trainer's environment")
    questions = {
        "package": {},
        "versions": {"distributions": [MEGATRON]},
        "imported": {"module": TRANSFORMER_ENGINE},
    }
    replies = check_up(python, questions)
    install = f"install nemo_rl_efficientrollout {__version__} with {python}"
    found, error = replies["package"]
    if error is not None:
        return [Finding(NAME, "fail", f"this package does not import there: {error}", install)]
    if found["version"] != __version__:
        return [Finding(NAME, "fail", f"{found['version']} there, but the driver has {__version__}", install)]
    megatron = (replies["versions"].answer or {}).get(MEGATRON)
    if megatron is None:
        return [Finding(NAME, "fail", f"{python} has no {MEGATRON}", "use NeMo-RL's environment of extra 'mcore'")]
    version, error = replies["imported"]
    engine = f"without Transformer Engine ({error})" if error else f"Transformer Engine {version}"
    return [Finding(NAME, "ok", f"package {found['version']}, {MEGATRON} {megatron}, {engine}")]
