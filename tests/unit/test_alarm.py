"""When alarms ring and when they do not, from metrics alone."""

import pytest

from nemo_rl_efficientrollout.alarm import PATIENCE, Alarms

WELL = {
    "efficientrollout/engines_behind": 0.0,
    "efficientrollout/engines_without_cost_model": 0.0,
    "efficientrollout/regret_estimate": 0.02,
    "efficientrollout/measured_over_predicted": 1.03,
    "efficientrollout/break_even": 0.5,
    "vllm/spec_acceptance_rate": 0.9,
    "vllm/spec_num_draft_tokens": 1000.0,
}
ILL = {
    "behind": {"efficientrollout/engines_behind": 2.0, "efficientrollout/drafter_version_lag": 1.0},
    "acceptance": {"vllm/spec_acceptance_rate": 0.02},
    "gate_stuck": {"efficientrollout/regret_estimate": 0.25},
    "cost_model": {"efficientrollout/measured_over_predicted": 1.3},
}
SAID = {
    "behind": "2 engines have no drafter",
    "acceptance": "2.0% of drafted tokens were accepted",
    "gate_stuck": "25% longer",
    "cost_model": "1.30 times as long",
}


@pytest.mark.parametrize("name", ILL)
def test_it_rings_once_when_it_lasts_and_again_after_it_was_well(name: str) -> None:
    alarms = Alarms()
    for _ in range(2):
        for _ in range(PATIENCE - 1):
            assert alarms.observe(WELL | ILL[name]) == []
            assert alarms.ringing == []
        (alarm,) = alarms.observe(WELL | ILL[name])
        assert alarm.name == name
        assert SAID[name] in alarm.text
        assert alarms.observe(WELL | ILL[name]) == []
        assert alarms.ringing == [name]
        assert alarms.observe(WELL) == []
        assert alarms.ringing == []


@pytest.mark.parametrize(
    ("name", "ill"),
    [
        ("acceptance", {"vllm/spec_acceptance_rate": 0.4}),  # fell, and pays no more
        ("gate_stuck", {"efficientrollout/engines_without_cost_model": 1.0}),
        ("cost_model", {"efficientrollout/measured_over_predicted": 0.7}),
    ],
    ids=["acceptance fell", "no cost model", "faster than predicted"],
)
def test_it_rings_for_other_causes_too(name: str, ill: dict[str, float]) -> None:
    alarms = Alarms()
    alarms.observe(WELL)
    rung = [alarm.name for _ in range(PATIENCE) for alarm in alarms.observe(WELL | ill)]
    assert rung == [name]


@pytest.mark.parametrize(
    "well",
    [
        WELL,
        {},
        ILL["acceptance"] | {"vllm/spec_num_draft_tokens": 10.0},
        WELL | {"efficientrollout/break_even": 1.0},
        WELL | {"vllm/spec_acceptance_rate": 0.6},
        WELL | {"efficientrollout/regret_estimate": 0.1, "efficientrollout/measured_over_predicted": 1.25},
        WELL | {"efficientrollout/measured_over_predicted": 0.75},
    ],
    ids=[
        "all well",
        "no metrics",
        "too few drafts to tell",
        "drafts never pay here",
        "just pays",
        "at the edge",
        "fast",
    ],
)
def test_it_is_silent_otherwise(well: dict[str, float]) -> None:
    alarms = Alarms()
    alarms.observe(WELL)
    assert [alarm for _ in range(3 * PATIENCE) for alarm in alarms.observe(well)] == []


def test_a_gate_is_not_blamed_for_a_drafter_that_is_behind() -> None:
    alarms = Alarms()
    ill = WELL | ILL["behind"] | ILL["gate_stuck"]
    assert [alarm.name for _ in range(PATIENCE) for alarm in alarms.observe(ill)] == ["behind"]


def test_steps_that_tell_nothing_of_acceptance_neither_ring_nor_heal() -> None:
    alarms, ill = Alarms(), WELL | ILL["acceptance"]
    for _ in range(PATIENCE - 1):
        alarms.observe(ill)
    assert alarms.observe(ill | {"vllm/spec_num_draft_tokens": 5.0}) == []
    assert [alarm.name for alarm in alarms.observe(ill)] == ["acceptance"]
