"""The job with a fault in its own process: `python -m tests.faults.faulty_job FAULT ARGUMENTS-OF-THE-JOB`."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from examples.grpo_math.__main__ import ENVIRONMENT, ONE_THREAD, app
from tests.faults.jumps import jumping_clocks

STRIKES_AFTER = 2
"""Finished training steps."""


def in_mid_rollout(run_dir: Path, strike: Any) -> None:
    """Strike in the fifth engine step after so many training steps."""
    from nemo_rl_efficientrollout.engine.runner_v1 import SelfSpeculativeRunner

    run, steps, record = SelfSpeculativeRunner.execute_model, iter(range(10**9)), run_dir / "steps.jsonl"

    def execute_model(runner: Any, *args: Any, **kwargs: Any) -> Any:
        due = record.exists() and record.read_text().count("\n") >= STRIKES_AFTER
        if due and next(steps) == 4:
            (run_dir / "struck").touch()
            strike()
        return run(runner, *args, **kwargs)

    SelfSpeculativeRunner.execute_model = execute_model


def explode() -> None:
    raise ZeroDivisionError("injected")


def main(fault: str, arguments: list[str]) -> None:
    for key, value in (ENVIRONMENT | ONE_THREAD).items():
        os.environ.setdefault(key, value)
    run_dir = Path(arguments[arguments.index("--runs-dir") + 1]) / arguments[arguments.index("--name") + 1]
    sys.argv[1:] = arguments
    if fault == "clocks":
        with jumping_clocks():
            app()
    in_mid_rollout(run_dir, {"hang": lambda: time.sleep(1e6), "exception": explode}[fault])
    app()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
