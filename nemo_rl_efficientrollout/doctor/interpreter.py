"""Questions to another Python environment, answered by its own interpreter."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..engine import checkup

CHECKUP_SECONDS = 180.0
"""vLLM's first import from a cold network file system takes a minute."""
TRIAL_SECONDS = 600.0
"""An engine's start, compilation included."""


class Reply(NamedTuple):
    """What came of one question; exactly one of the two is set, where the answer itself is not None."""

    answer: Any = None
    error: str | None = None
    """One line."""


Replies = dict[str, Reply]


def check_up(python: Path, questions: Mapping[str, Mapping[str, Any]], seconds: float = CHECKUP_SECONDS) -> Replies:
    """Ask the environment of `python` some of `engine.checkup.QUESTIONS`, by name with their arguments.

    A process that dies or takes longer than `seconds` is the error of every question that it had not answered.
    """
    source = Path(checkup.__file__).read_text(encoding="utf-8")
    return _ask([str(python), "-c", source], questions, list(questions), seconds)


def try_engine(
    python: Path, model: Path, settings: Mapping[str, Any], enforce_eager: bool, seconds: float = TRIAL_SECONDS
) -> Reply:
    """Counters of every worker of an engine that the environment of `python` ran, see `engine.trial`."""
    command = [str(python), "-m", "nemo_rl_efficientrollout.engine.trial"]
    request = {"model": str(model), "settings": settings, "enforce_eager": enforce_eager}
    return _ask(command, request, ["trial"], seconds)["trial"]


def _ask(command: list[str], request: Mapping[str, Any], questions: list[str], seconds: float) -> Replies:
    # Not from the working directory: Ray's workers would not find there what this finds.
    environment = os.environ | {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.TemporaryDirectory(prefix="efficientrollout-") as folder:
        answers = Path(folder) / "answers.json"
        end = _run([*command, json.dumps(request), str(answers)], environment, Path(folder) / "stderr", seconds)
        given = json.loads(answers.read_text()) if answers.exists() else {}
    return {name: Reply(**given[name]) if name in given else Reply(error=end) for name in questions}


def _run(command: list[str], environment: Mapping[str, str], stderr: Path, seconds: float) -> str:
    """Run to the end and say how it ended, in one line. Standard output is dropped: vLLM logs there."""
    try:
        with stderr.open("wb") as sink:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=sink, start_new_session=True
            )
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.0f} s"
    finally:
        _end_group(process)
    lines = stderr.read_text(errors="replace").strip().splitlines()
    return f"its interpreter ended with code {code}" + (f": {lines[-1].strip()[:200]}" if lines else "")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and its children: an engine's processes outlive one that was killed."""
    with suppress(ProcessLookupError):  # all ended by themselves
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
