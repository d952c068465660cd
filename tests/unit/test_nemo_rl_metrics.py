"""Metrics of a training step from counters."""

import pytest

from nemo_rl_efficientrollout.engine.totals import PREFIX
from nemo_rl_efficientrollout.nemo_rl.metrics import ACCEPTED, step_metrics


def counters(**values: float) -> dict:
    return {PREFIX + name: float(value) for name, value in values.items()}


def test_engines_are_averaged_and_counters_are_differences() -> None:
    start = counters(engines=2, decode_steps=100, speculating_steps=90, gate_switches=4) | {(ACCEPTED, 1): 50.0}
    start |= counters(drafted_at_1=80, drafted_at_2=40, gated_microseconds=1e6, promised_microseconds=1e6)
    start |= counters(ideal_microseconds=1e6)
    end = counters(engines=2, decode_steps=300, speculating_steps=140, gate_switches=10, break_even_millionths=5e5)
    end |= counters(policy_version=8, drafter_version=7, requantize_microseconds=3e6, behind=1)
    end |= counters(drafted_at_1=180, drafted_at_2=60, gated_microseconds=3e6, promised_microseconds=4e6)
    end |= counters(blind=1, measured_microseconds=3e6, predicted_microseconds=2e6)
    end |= counters(ideal_microseconds=2.6e6) | {(ACCEPTED, 1): 125.0, (ACCEPTED, 2): 5.0}
    found = step_metrics(start, end)
    assert found == pytest.approx(
        {
            "efficientrollout/speculating_fraction": 0.25,
            "efficientrollout/draft_length_mean": 1.2,
            "efficientrollout/acceptance_by_position/1": 0.75,
            "efficientrollout/acceptance_by_position/2": 0.25,
            "efficientrollout/drafter_version_lag": 0.5,
            "efficientrollout/engines_behind": 1.0,
            "efficientrollout/predicted_speedup": 1.5,
            "efficientrollout/regret_estimate": 0.25,
            "efficientrollout/gate_switches": 3.0,
            "efficientrollout/engines_without_cost_model": 1.0,
            "efficientrollout/measured_over_predicted": 1.5,
            "efficientrollout/break_even": 0.25,
            "refit/requantize_s": 1.5,
        }
    )


def test_without_our_engines_there_is_nothing() -> None:
    assert step_metrics({}, {"vllm:spec_decode_num_drafts": 3.0}) == {}


def test_what_is_not_known_is_left_out() -> None:
    found = step_metrics({}, counters(engines=1))
    assert set(found) == {
        "efficientrollout/drafter_version_lag",
        "efficientrollout/engines_behind",
        "efficientrollout/gate_switches",
        "efficientrollout/engines_without_cost_model",
        "refit/requantize_s",
    }
