"""Processes that are killed, hang or answer badly: vLLM's own error reaches the caller, and a new engine is fresh."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import generate, start
from tests.faults.drafting import FRESH, SETTINGS, drafts_of
from tests.faults.observed import note
from tests.faults.separate import BATCH, TOKENS
from tests.models import save_tiny_model
from tests.proof import Proof

pytestmark = [pytest.mark.engine, pytest.mark.full]
ROOT = Path(__file__).parents[2]
DEAD = "EngineDeadError"
EXPECTED = "vLLM's EngineDeadError, no hang; a new engine on the same weights is fresh"
STEP_TIMEOUT = 5
"""Seconds that vLLM waits for a step of its workers; 300 if nothing is set."""
FAULTS = {
    "kill core": "kill -9 of the engine core",
    "kill worker": "kill -9 of a worker",
    "kill core in refit": "kill -9 of the engine core",
    "hang": "a step that never returns",
    "drafter": "exception in the drafter, in a worker process",
    "answers fail": "a worker process answers with an error",
    "answers late": "a worker process answers 3 s late",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def seen(models: list[Path]) -> dict[str, dict[str, Any]]:
    """What a caller saw of each fault, see `separate`."""
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_TIMEOUT),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.faults.separate", *map(str, models), *FAULTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=450)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"fault"')]
    return {line["fault"]: line for line in lines}


@pytest.fixture(scope="module")
def expected(models: list[Path]) -> list[list[int]]:
    """Plain decoding."""
    return generate(start(models[0]), BATCH, TOKENS)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "answers late"])
def test_the_caller_is_told_and_a_new_engine_is_fresh(
    fault: str, seen: dict[str, Any], models: list[Path], expected: Any, proof: Proof
) -> None:
    one = seen[fault]
    recovered = drafts_of(start(models[0], SETTINGS), BATCH, expected)
    place = "in mid-refit" if "refit" in fault else f"in mid-rollout, after {one['tokens_before']} tokens each"
    least = STEP_TIMEOUT - 1 if fault == "hang" else 0
    note(
        proof, FAULTS[fault], place, EXPECTED,
        f"{one['error']} after {one['seconds']:.0f} s; a new engine: {recovered}",
        one["error"].startswith(DEAD) and least <= one["seconds"] < 60 and recovered == FRESH,
    )  # fmt: skip


def test_late_answers_delay_and_nothing_else(seen: dict[str, Any], expected: Any, proof: Proof) -> None:
    one = seen["answers late"]
    right = one["tokens"] == expected
    note(
        proof, FAULTS["answers late"], f"in mid-rollout, after {one['tokens_before']} tokens each",
        "the step waits; right tokens",
        f"{one['error'] or 'no error'}; {'right' if right else 'wrong'} tokens after {one['seconds']:.0f} s",
        not one["error"] and right and one["seconds"] > 2.9,
    )  # fmt: skip
