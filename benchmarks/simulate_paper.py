"""The paper's rollouts, simulated from what it publishes: do the predicted savings agree with the measured ones?

Nothing that is compared with a measured reduction is fitted to one. Then the same rollouts under this project's gate,
and under the oracle: what better decisions alone are worth.
"""

import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from .paper_rollouts import DRAFT_LENGTHS, IMPLIED, KINDS, LEAST_PROMPT, MOST_DRAFTED_FOR, NOISE, Setting, reduction
from .published_models import MEAN_RESPONSE, MODELS, MOST_PROMPT, Result
from .record import Parser, Progress, Record, at_least, check_writable

GOAL = 0.03
"""Difference from a measured reduction that is within the goal."""


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, write."""
    parser = Parser(prog="python -m benchmarks.simulate_paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=at_least(1), default=3, help="of each setting; default: 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--quick", action="store_true", help="one model, one kind of times, one rollout, no gate")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.rollouts = 1
    record = Record(
        "simulate_paper",
        "Simulated rollouts of arXiv 2606.18967: time against plain decoding",
        {"rollouts": options.rollouts, "quick": options.quick},
        ("model", "times", "policy", "rollout s", "saved", "measured", "off by", "step saved", "measured"),
    )
    progress = Progress(options.quiet)
    for model in MODELS[:1] if options.quick else MODELS:
        for kind in KINDS[:1] if options.quick else KINDS:
            with progress.phase(f"{model.name}, {kind}"):
                setting = Setting(model, kind, options.rollouts)
                _add(record, setting, sampled=not options.quick)
                _diagnose(record, setting, sampled=not options.quick)
    record.notes += _notes(record)
    # Not closed, which would say how busy the machine was: nothing is timed here.
    record.show()
    record.write(options.json, options.markdown)
    return 0


def _add(record: Record, setting: Setting, sampled: bool) -> None:
    model = setting.model
    always_on, reference = setting.always_on(), setting.reference()
    ways: list[tuple[str, list[float], Result | None]] = [
        ("plain", setting.plain, None),
        (f"always γ = {model.always_on.draft_length:g}", always_on, model.always_on),
        ("reference", reference, model.reference),
        ("best batch table", setting.table(), None),
        ("oracle", setting.oracle(), None),
    ]
    if sampled and setting.kind in ("forward", IMPLIED):  # the extremes; sampling takes its time
        ways += [("this gate, sampled", setting.gated(), None), ("oracle, sampled", setting.sampled_oracle(), None)]
    for name, seconds, measured in ways:
        _row(record, setting, name, seconds, measured)


def _diagnose(record: Record, setting: Setting, sampled: bool) -> None:
    """What a drafter step would have to take for the measured reductions, and the same rollouts with it."""
    other, extra = setting.implied()
    record.results.append(
        {
            "model": setting.model.name,
            "times": setting.kind,
            "policy": "diagnosis",
            "mean_response": fmean(float(work.response.mean()) for work in setting.works),
            "longest_response": max(int(work.response.max()) for work in setting.works),
            "drafter_step_ms": 1e3 * float(setting.costs.draft(np.ones(1), np.full(1, MOST_PROMPT), np.ones(1))[0]),
            "implied_extra_ms": {
                "always_on": 1e3 * extra,
                "reference": 1e3 * setting.implied_extra(setting.reference, setting.model.reference.reduction),
            },
        }
    )
    if setting.kind == "forward":
        _add(record, other, sampled)


def _row(record: Record, setting: Setting, name: str, seconds: list[float], measured: Result | None) -> None:
    model = setting.model
    saved = reduction(seconds, setting.plain)
    # The rollout's share of a step, all that is beside it, and re-quantization are the published ones.
    step_saved = (saved * model.plain_s - model.preparation_s) / model.step_s
    off = saved - measured.reduction if measured else None
    record.rows.append(
        (
            model.name,
            setting.kind,
            name,
            f"{fmean(seconds):.1f}",
            f"{100 * saved:.1f} %" if name != "plain" else "",
            f"{100 * measured.reduction:.1f} %" if measured else f"{model.plain_s:.1f} s" if name == "plain" else "",
            f"{100 * off:+.1f}" if off is not None else "",
            f"{100 * step_saved:.1f} %" if name != "plain" else "",
            f"{100 * measured.step_reduction:.1f} %" if measured else "",
        )
    )
    record.results.append(
        {
            "model": model.name,
            "times": setting.kind,
            "policy": name,
            "rollout_s": seconds,
            "plain_s": setting.plain[: len(seconds)],
            "saved": saved,
            "measured": measured.reduction if measured else None,
            "off_by": off,
            "within_goal": None if off is None or setting.kind == IMPLIED else abs(off) <= GOAL,
            "step_saved": step_saved,
        }
    )


def _notes(record: Record) -> list[str]:
    judged = [result for result in record.results if result.get("within_goal") is not None]
    notes = [
        f"within {100 * GOAL:.0f} points of the measured reduction: "
        + ", ".join(
            f"{sum(r['within_goal'] for r in judged if r['times'] == kind)} of"
            f" {sum(r['times'] == kind for r in judged)} with {kind} times"
            for kind in dict.fromkeys(r["times"] for r in judged)
        ),
        "forward: published constants as they are; head: every step reads the lm_head besides; engine: every step takes"
        " as much more as the published T_T of the running engine",
        "step saved: the published time beside the rollout is kept, re-quantization as published is added for all"
        " that draft",
    ]
    for result in record.results:
        if result["policy"] != "diagnosis":
            continue
        extra = result["implied_extra_ms"]
        notes.append(
            f"{result['model']}, {result['times']}: mean response {result['mean_response']:.0f} tokens (published"
            f" {MEAN_RESPONSE[0]:.0f} to {MEAN_RESPONSE[1]:.0f}), longest {result['longest_response']}; a drafter step"
            f" of {result['drafter_step_ms']:.2f} ms would have to take {extra['always_on']:.2f} ms more for the"
            f" measured always-on, {extra['reference']:.2f} ms more for the measured reference"
        )
    notes += [
        f"not published, so assumed: prompts log-uniform from {LEAST_PROMPT} to {MOST_PROMPT} tokens; acceptance the"
        " same at every position and context; completions of Qwen2.5-14B, for which those of Qwen2.5-7B stand in",
        "published times end with the transformer's forward pass. A drafter step of the running engine computes"
        " lm_head, softmax and a sample as well, and the host prepares it: no time of that is published",
        "implied: forward, and a drafter step as long as the measured always-on implies: its always-on is fitted, its"
        " reference is not; a diagnosis, not counted above",
        "reference: its toggle at the two rungs around the published mean γ, weighted to have that mean; its τ known",
        f"this gate: uncalibrated, γ up to {max(DRAFT_LENGTHS)}, drafting up to {MOST_DRAFTED_FOR} requests; sampled:"
        f" step by step, with {100 * NOISE:g} % noise; the others are expected times",
    ]
    return notes


if __name__ == "__main__":
    sys.exit(main())
