"""One training step's metrics, from counters of all engines before and after it.

NeMo-RL's workers report every vLLM metric with `spec_decode` in its name, and NeMo-RL adds them up over engines
(nemo_rl/models/generation/vllm/utils.py, https://github.com/NVIDIA-NeMo/RL). Ours are among them, by
`engine.metrics`; this is what NeMo-RL does for its own `vllm/spec_*`, done for ours.
"""

from collections.abc import Mapping
from typing import Any

from ..alarm import ROOM
from ..engine.totals import DRAFTED_AT, PREFIX, Totals

Counters = Mapping[Any, float]
"""By name; by (name, position from 1) where a metric has positions."""
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_per_pos"
REQUANTIZE = "refit/requantize_s"


def step_metrics(start: Counters, end: Counters) -> dict[str, float]:
    """Metrics of what happened between two readings, under the names that follow NeMo-RL's `train/`.

    | name | meaning |
    |---|---|
    | `efficientrollout/speculating_fraction` | decode steps that verified drafts, of all |
    | `efficientrollout/draft_length_mean` | γ of those drafts |
    | `efficientrollout/acceptance_by_position/i` | accepted of those drafted at position i, from 1 |
    | `efficientrollout/drafter_version_lag` | refits by which drafters are behind their policy, mean over engines |
    | `efficientrollout/engines_behind` | engines whose drafter must not draft |
    | `efficientrollout/predicted_speedup` | tokens per second over those of plain decoding, by the gate's model |
    | `efficientrollout/regret_estimate` | time over what the most promising actions would take, less 1, by the same |
    | `efficientrollout/gate_switches` | changes of action, mean over engines |
    | `efficientrollout/break_even` | acceptance rate from which drafting pays for a request alone, by the same |
    | `efficientrollout/engines_without_cost_model` | engines whose gate needs one to choose by, and has none |
    | `efficientrollout/measured_over_predicted` | time of decode steps over what the gate's cost model predicted |
    | `refit/requantize_s` | seconds by which making the drafter prolonged the last refit, mean over engines |

    What nothing is known of is left out. Empty where no engine has a drafter of this package.
    """

    before, now = _totals(start), _totals(end)
    if not now.engines:
        return {}
    # An engine that was started anew counts from 0.
    since = Totals(*(max(late - early, 0) for early, late in zip(before, now, strict=True)))
    found = {
        "drafter_version_lag": max(now.policy_version - now.drafter_version, 0) / now.engines,
        "engines_behind": float(now.behind),
        "gate_switches": since.gate_switches / now.engines,
        "engines_without_cost_model": float(now.blind),
    }
    if since.decode_steps:
        found["speculating_fraction"] = since.speculating_steps / since.decode_steps
    if since.gated_microseconds:
        found["predicted_speedup"] = since.promised_microseconds / since.gated_microseconds
    if since.ideal_microseconds:
        found["regret_estimate"] = since.gated_microseconds / since.ideal_microseconds - 1.0
    if now.break_even_millionths:
        found["break_even"] = 1e-6 * now.break_even_millionths / now.engines
    if since.predicted_microseconds:
        found["measured_over_predicted"] = since.measured_microseconds / since.predicted_microseconds
    found |= _by_position(start, end)
    return {ROOM + name: value for name, value in found.items()} | {
        REQUANTIZE: 1e-6 * now.requantize_microseconds / now.engines
    }


def _totals(counters: Counters) -> Totals:
    """Ours among them, added up over engines."""
    return Totals(*(int(counters.get(PREFIX + name, 0)) for name in Totals._fields))


def _by_position(start: Counters, end: Counters) -> dict[str, float]:
    def since(key: Any) -> float:
        return max(end.get(key, 0.0) - start.get(key, 0.0), 0.0)

    found: dict[str, float] = {}
    drafted: list[float] = []
    while f"{DRAFTED_AT}{len(drafted) + 1}" in end:
        position = len(drafted) + 1
        drafted.append(since(f"{DRAFTED_AT}{position}"))
        if drafted[-1]:
            found[f"acceptance_by_position/{position}"] = since((ACCEPTED, position)) / drafted[-1]
    if drafted and drafted[0]:
        found["draft_length_mean"] = sum(drafted) / drafted[0]  # every draft has a first token
    return found
