"""What one decision of the gate costs, and one step's learning: pure Python and numpy on one core."""

import sys
import time
from collections.abc import Callable
from statistics import median

from nemo_rl_efficientrollout.gate import AutoGate, Load, Step

from .record import Record, at_least, check_writable, new_parser, whole_numbers

GOAL_MICROSECONDS = 20.0


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("gate_decision", (__doc__ or "").splitlines()[0])
    parser.add_argument("--longest", type=whole_numbers(1), default=(5, 15, 32), help="γ_max; default: 5,15,32")
    parser.add_argument("--requests", type=at_least(1), default=16, help="B; default: 16")
    parser.add_argument("--steps", type=at_least(100), default=4000, help="default: 4000")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.steps = 200
    names = ("longest", "requests", "steps", "quick")
    record = Record(
        "gate_decision",
        f"microseconds of the automatic gate, {options.requests} requests",
        {name: getattr(options, name) for name in names},
        ("γ_max", "choose, median", "choose, mean", "observe, plain", "observe, speculating"),
    )
    for longest in options.longest:
        choosing, plain, speculating = _measure(longest, options.requests, options.steps)
        mean = sum(choosing) / len(choosing)
        cells = (median(choosing), mean, median(plain), median(speculating))
        record.rows.append((str(longest), *(f"{1e6 * seconds:.1f}" for seconds in cells)))
        keys = ("choose_median_s", "choose_mean_s", "observe_plain_s", "observe_speculating_s")
        record.results.append({"longest": longest, **dict(zip(keys, cells, strict=True))})
    record.notes.append(f"goal: a decision costs at most {GOAL_MICROSECONDS:g} µs")
    record.finish(options)
    return 0


def _measure(longest: int, requests: int, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of every call; contexts grow as in a rollout, so the gate meets new loads all the time."""
    gate = AutoGate(longest)
    choosing, plain, speculating = [], [], []
    verified = 0
    for index in range(steps):
        load = Load(requests, 200.0 + index)
        choosing.append(_seconds(lambda at=load: gate.choose(at)))
        asked = 0 if index < 8 else (index // 4 % 2) * max(longest // 2, 1)
        rows = [verified] * requests if verified else []
        step = Step(
            load, verified, asked, 0.01 * (1 + 0.1 * verified), True, rows, rows, [int(load.context)] * len(rows)
        )
        (speculating if verified else plain).append(_seconds(lambda at=step: gate.observe(at)))
        verified = asked
    return choosing, plain, speculating


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
