"""Rollout times of this engine, predicted by the simulator and measured.

Every round calibrates the engine with its own tool, notes acceptance in a rollout of other problems, and then rolls out
the round's problems in every mode: plain decoding, each fixed γ, the gate; every second round backwards. Of what it
predicts the simulator is told the lengths of prompts and responses, nothing else: costs are those of the round's own
calibration and of the next one's, acceptance is that of the other rollouts, and in the gate's place the real gate runs,
started from the same file and with all that it learns in the rounds before.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_rl_efficientrollout.gate import AutoGate, Gate
from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, load, save
from nemo_rl_efficientrollout.gate.fit import fit
from nemo_rl_efficientrollout.gate.gates import FixedGate
from nemo_rl_efficientrollout.simulate import (
    AcceptanceCurve,
    Costs,
    Engine,
    Limits,
    MeasuredPrefill,
    ModelCosts,
    Workload,
    at_once,
)

from .measure import ratio_interval
from .record import Progress, Record, at_least, check_writable, new_parser, whole_numbers
from .rollout_jobs import DemoJob, RandomJob, Rollout, set_job_environment

if TYPE_CHECKING:
    from nemo_rl_efficientrollout.engine.calibrate import Calibrated

GOAL = 0.1
PLAIN, AUTO = "plain", "gate"
DRAWS = 5
"""Simulated rollouts of which a prediction is the mean: which drafts are accepted is drawn."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, predict, print, write."""
    parser = new_parser("simulate_engine", (__doc__ or "").splitlines()[0])
    parser.add_argument("--models", choices=("both", "demo", "small"), default="both", help="default: both")
    parser.add_argument("--draft-lengths", type=whole_numbers(1), default=(1, 3, 5), help="default: 1,3,5")
    parser.add_argument("--requests", type=at_least(1), default=64, help="of a rollout, in groups of 8; default: 64")
    parser.add_argument("--rounds", type=at_least(2), default=8, help="default: 8")
    parser.add_argument("--calibrate-seconds", type=float, default=12.0, help="in every round; default: 12")
    parser.add_argument("--warm-start-steps", type=at_least(1), default=500, help="of the demo's model; default: 500")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where the demo's model is kept, such as runs/.cache")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.models, options.draft_lengths, options.requests = "demo", (2,), 8
        options.rounds, options.calibrate_seconds, options.warm_start_steps = 2, 2.0, 5
    set_job_environment()
    progress = Progress(options.quiet)
    names = ("models", "draft_lengths", "requests", "rounds", "calibrate_seconds", "warm_start_steps", "quick")
    record = Record(
        "simulate_engine",
        "rollout seconds predicted by the simulator and measured, int8 drafter, T = 1",
        {name: getattr(options, name) for name in names},
        (
            "model",
            "mode",
            "predicted s",
            "measured s",
            "predicted / measured",
            "95 %",
            "over plain: predicted",
            "measured",
        ),
    )
    for kind in (DemoJob, RandomJob):
        if options.models in ("both", kind.name):
            with tempfile.TemporaryDirectory() as directory:
                job = kind(Path(directory), options, progress)
                _report(record, job.name, _measure(job, Path(directory), options, progress))
                job.close()
    record.notes += [
        f"predicted / measured: median over rounds, and its interval from drawing rounds; goal: within {GOAL:.0%}",
        "over plain: seconds of plain decoding over those of the mode, medians over rounds",
    ]
    record.finish(options)
    return 0


@dataclass
class Measured:
    """What was measured of one model; the first round warms up."""

    limits: Limits
    max_requests: int
    calibration: Path
    """The gate's, from the first round."""
    calibrated: list["Calibrated"] = field(default_factory=list)
    others: list[Rollout] = field(default_factory=list)
    """Rollouts of other problems at the longest γ."""
    rollouts: dict[str, list[Rollout]] = field(default_factory=lambda: defaultdict(list))

    def acceptance(self) -> AcceptanceCurve:
        """By position, over all contexts: of those who got there."""
        accepted = np.sum([rollout.accepted for rollout in self.others], axis=0, dtype=float)
        reached = np.concatenate([[float(sum(rollout.drafts for rollout in self.others))], accepted[:-1]])
        return AcceptanceCurve((accepted / np.maximum(reached, 1.0))[None, :], np.zeros(1))

    def costs(self, index: int) -> Costs:
        """By the calibrations before and after a round."""
        near = self.calibrated[index : index + 2]
        model = fit([timing for one in near for timing in one.timings]).model
        return MeasuredPrefill(ModelCosts(model), [prefill for one in near for prefill in one.prefills])


def _measure(job: Any, directory: Path, options: Any, progress: Progress) -> Measured:
    from nemo_rl_efficientrollout.engine.calibrate import calibrate

    config = job.llm.llm_engine.vllm_config
    block, longest = config.cache_config.block_size, max(options.draft_lengths)
    limits = Limits(
        requests=config.scheduler_config.max_num_seqs,
        kv_tokens=config.cache_config.num_gpu_blocks * block,
        block=block,
        lookahead=longest,
        prefix_caching=job.longest_prompt > block,
    )
    measured = Measured(limits, job.max_requests, directory / "calibration.json")
    gates = {PLAIN: {"mode": "off"}} | {f"γ = {g}": {"mode": "fixed", "draft_length": g} for g in options.draft_lengths}
    gates[AUTO] = {"mode": "auto", "calibration": str(measured.calibration)}
    for index in range(options.rounds + 1):
        with progress.phase(f"{job.name}: round {index} of {options.rounds}"):
            measured.calibrated.append(calibrate(job.llm, options.calibrate_seconds))
            if index == 0:
                first = measured.calibrated[0]
                save(from_fit(first.fit, first.timings, Provenance(source="simulate_engine")), measured.calibration)
            measured.others.append(job.rollout(-1 - index, {"mode": "fixed", "draft_length": longest}))
            for mode in gates if index % 2 == 0 else reversed(gates):
                measured.rollouts[mode].append(job.rollout(index, gates[mode]))
    measured.calibrated.append(calibrate(job.llm, options.calibrate_seconds))
    return measured


def _predict(measured: Measured, mode: str, costs: Sequence[Costs], seed: int) -> list[float]:
    """Seconds of every round's rollout, in their order: a gate goes on with what it learned."""
    gate: Gate
    if mode == AUTO:
        model = load(measured.calibration).cost_model()
        gate = AutoGate(measured.acceptance().max_draft_length, model)
    else:
        gate = FixedGate(0 if mode == PLAIN else int(mode.removeprefix("γ = ")))
    acceptance = measured.acceptance()
    return [
        Engine(cost, acceptance, gate, measured.limits, measured.max_requests, seed=1000 * seed + index)
        .rollout(_workload(rollout))
        .seconds
        for index, (cost, rollout) in enumerate(zip(costs, measured.rollouts[mode], strict=True))
    ]


def _workload(rollout: Rollout) -> Workload:
    """The first token of a response comes from the prefill and is behind it when decoding starts."""
    response = np.array(rollout.response)
    return at_once(np.array(rollout.prompt) + 1, np.maximum(response - 1, 1))


def _report(record: Record, name: str, measured: Measured) -> None:
    costs = [measured.costs(index) for index in range(len(measured.others))]
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    for mode, rollouts in measured.rollouts.items():
        draws = [_predict(measured, mode, costs, seed) for seed in range(1 if mode == PLAIN else DRAWS)]
        seconds[mode] = [fmean(each) for each in zip(*draws, strict=True)][1:], [r.seconds for r in rollouts][1:]
    plain = [median(each) for each in seconds[PLAIN]]
    for mode, (predicted, found) in seconds.items():
        rounds = [([p / m], [1.0]) for p, m in zip(predicted, found, strict=True)]
        ratio, low, high = ratio_interval(rounds)
        gains = [base / median(each) for base, each in zip(plain, (predicted, found), strict=True)]
        cells = f"{median(predicted):.3f}", f"{median(found):.3f}", f"{ratio:.3f}", f"{low:.3f} to {high:.3f}"
        record.rows.append((name, mode, *cells, *(f"{gain:.3f}" for gain in gains)))
        record.results.append(
            {
                "model": name,
                "mode": mode,
                "predicted_s": predicted,
                "measured_s": found,
                "ratio": {"value": ratio, "low": low, "high": high},
                "within_goal": abs(ratio - 1.0) <= GOAL,
                "over_plain": dict(zip(("predicted", "measured"), gains, strict=True)),
            }
        )
    responses = [length for rollout in measured.rollouts[PLAIN] for length in rollout.response]
    rates = ", ".join(f"{rate:.3f}" for rate in measured.acceptance().rates[0])
    steps = sum(len(one.timings) for one in measured.calibrated)
    record.notes.append(
        f"{name}: responses of {median(responses):.0f} tokens (median), longest {max(responses)}; acceptance by"
        f" position, in other rollouts: {rates}; {len(measured.calibrated)} calibrations, {steps} steps"
    )


if __name__ == "__main__":
    sys.exit(main())
