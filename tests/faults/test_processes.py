"""Processes that are killed, hang or answer badly: vLLM's own error reaches the caller, and a new engine is fresh."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.drafting import FRESH
from tests.faults.observed import note
from tests.models import save_tiny_model
from tests.proof import Proof

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
DEAD = "EngineDeadError"
EXPECTED = "vLLM's EngineDeadError, no hang; a new engine on the same weights is fresh"
STEP_TIMEOUT = 5
"""Seconds that vLLM waits for a step of its workers; 300 if nothing is set."""
FULL = pytest.mark.full


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


def strike(fault: str, models: list[Path]) -> dict[str, Any]:
    """What a caller saw of a fault, see `separate`."""
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_TIMEOUT),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.faults.separate", fault, *map(str, models)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("fault", "name", "least", "most"),
    [
        ("kill core", "kill -9 of the engine core in mid-rollout", 0, 30),
        pytest.param("kill worker", "kill -9 of a worker in mid-rollout", 0, 30, marks=FULL),
        pytest.param("kill core in refit", "kill -9 of the engine core in mid-refit", 0, 30, marks=FULL),
        pytest.param("hang", "a step that never returns", STEP_TIMEOUT - 1, STEP_TIMEOUT + 30, marks=FULL),
        pytest.param("drafter", "exception in the drafter, in a worker process", 0, 30, marks=FULL),
        pytest.param("answers fail", "a worker process answers with an error", 0, 30, marks=FULL),
    ],
)
def test_the_caller_is_told_and_a_new_engine_is_fresh(
    fault: str, name: str, least: float, most: float, models: list[Path], proof: Proof
) -> None:
    seen = strike(fault, models)
    place = "refit" if "refit" in fault else f"after {seen['tokens_before']} tokens of each request"
    note(
        proof, name, place, EXPECTED,
        f"{seen['error']} after {seen['seconds']:.0f} s; a new engine: {seen['recovered']}",
        seen["error"].startswith(DEAD) and least <= seen["seconds"] <= most and seen["recovered"] == FRESH,
    )  # fmt: skip


@pytest.mark.full
def test_late_answers_delay_and_nothing_else(models: list[Path], proof: Proof) -> None:
    seen = strike("answers late", models)
    note(
        proof, "a worker process answers 3 s late", "after some tokens of each request", "the step waits; right tokens",
        f"{seen['error'] or 'no error'}; {'right' if seen['right'] else 'wrong'} tokens after {seen['seconds']:.0f} s",
        not seen["error"] and seen["right"] and seen["seconds"] > 2.9 and seen["recovered"] == FRESH,
    )  # fmt: skip
