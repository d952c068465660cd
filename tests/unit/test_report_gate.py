"""What a report shows of the gate: its cost model, how it divides seconds, and the map of its decisions."""

import json
from itertools import product

import numpy as np
import pytest
from pydantic import ValidationError

from nemo_rl_efficientrollout.engine.ledger import Ledger
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate import Load, Step
from nemo_rl_efficientrollout.gate.account import PARTS, Steps, expected, spent
from nemo_rl_efficientrollout.gate.described import Described
from nemo_rl_efficientrollout.gate.policy import HANDICAP
from nemo_rl_efficientrollout.report.decisions import decision_map
from nemo_rl_efficientrollout.report.panels import by_rollout
from nemo_rl_efficientrollout.report.predictions import against_measured, caption
from nemo_rl_efficientrollout.report.reading import read
from tests.reports import full_run, gate, rollout, trained_gate
from tests.sweeps import truth


def steps(seconds: float = 1.5) -> Steps:
    """Prefill, plain, first draft, whole cycles, last verification; each `seconds` times what `truth` expects."""
    verified, asked = [0, 0, 0, 3, 3, 3], [0, 0, 3, 3, 3, 0]
    columns = {
        "active": [8] * 6,
        "context": [512.0] * 6,
        "draft_length": verified,
        "asked": asked,
        "decode_only": [False, True, True, True, True, True],
        "step_seconds": [0.0] * 6,
    }
    target, drafter = expected(truth(), Steps.of(columns))
    return Steps.of(columns | {"step_seconds": list(seconds * (target + drafter))})


def test_a_described_gate_predicts_as_the_gate_itself() -> None:
    automatic = trained_gate()
    described = Described.model_validate(json.loads(json.dumps(automatic.describe()["cost_model"])))
    model = described.cost_model()
    assert automatic.tracker
    for batch, context in product((1, 7, 64), (10.0, 900.0, 40_000.0)):
        for kind in ("plain", "draft", "verify"):
            given = kind, batch, context, 0 if kind == "plain" else 3
            assert model.seconds(*given) == automatic.tracker.model.seconds(*given)
        np.testing.assert_allclose(described.lengths(context), automatic.acceptance["self"].lengths(context))


def test_the_map_shows_what_the_gate_would_choose() -> None:
    automatic = trained_gate()
    timeline = rollout(400) | {"gate": automatic.describe()}
    (one,) = read(full_run() | {"timeline": [timeline]}).timelines
    figure = decision_map(one, 300)
    assert figure
    heat = figure["data"][0]
    handicaps = np.array([1.0, *[1.0 / (1.0 + HANDICAP)] * 4])
    rows, columns = heat["customdata"], heat["x"]
    agreed = []
    for row, low, high in zip(rows, heat["y"], heat["y"][1:], strict=False):
        for chosen, left, right in zip(row, columns, columns[1:], strict=False):
            merits = automatic.speeds(Load(round((left * right) ** 0.5), (low * high) ** 0.5)) * handicaps
            # The gate rounds context lengths by 4 %, so a tie may fall either way.
            agreed.append(merits[chosen] > 0.995 * merits.max())
    assert np.mean(agreed) > 0.98
    assert len({chosen for row in rows for chosen in row}) > 2


def test_seconds_are_divided_as_the_model_says_and_none_is_lost() -> None:
    model, given = truth(), steps()
    target, drafter = (1.5 * part for part in expected(model, given))
    parts = spent(given, model)
    assert parts == pytest.approx(
        {
            "plain": target[1] + target[2],
            "draft": drafter[1:].sum(),
            "verify": target[3:].sum(),
            "undivided": 0.0,
            "prefill": target[0],
        }
    )
    assert parts["draft"] > 0
    assert sum(parts.values()) == pytest.approx(given.seconds.sum())


def test_the_parts_of_a_step_are_expected_to_take_what_the_step_is() -> None:
    model, given = truth(), steps()
    target, drafter = expected(model, given)
    pairs = zip(given.verified, given.asked, strict=True)
    whole = [model.terms.step(8, 512.0, int(verified), int(asked)) @ model.mean for verified, asked in pairs]
    np.testing.assert_allclose(target + drafter, whole)


def test_without_a_model_drafting_and_verifying_stay_together() -> None:
    given = steps()
    parts = spent(given, None)
    assert parts.keys() == set(PARTS)
    assert parts["undivided"] == pytest.approx(given.seconds[2:].sum())
    assert parts["draft"] == parts["verify"] == 0.0
    assert parts["plain"] == given.seconds[1]


def test_the_timeline_says_how_long_contexts_were() -> None:
    ledger = Ledger(max_draft_length=2)
    ledger.record(Step(Load(3, 120.5), 0, 2, 0.01, True), finished_at=1.0)
    timeline = ledger.timeline.take()
    assert (timeline["active"], timeline["context"], timeline["asked"]) == ([3], [120.5], [2])


def test_predictions_are_held_against_decode_steps_alone() -> None:
    columns = rollout(100)
    columns["expected_seconds"] = [0.012] * 100
    (one,) = read(full_run() | {"timeline": [columns]}).timelines
    figure = against_measured(one)
    assert figure
    dots = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["x"]) for trace in dots) == 99  # the first step had prefills
    assert {(x, y) for trace in dots for x, y in zip(trace["x"], trace["y"], strict=True)} == {(10.0, 12.0)}
    assert caption(one).startswith("Half of the 99 predicted step times are off by less than 20")


def test_a_rollout_before_the_first_cost_model_has_a_word_instead() -> None:
    early = rollout(100) | {"gate": {"gate": "AutoGate", "cost_model": None}}
    first, last = by_rollout(read(full_run() | {"timeline": [early, rollout(100)]}))
    shown = {panel.name: panel.figure for panel in first.panels}
    assert shown["map"]
    assert "Not recorded" in shown["map"]["layout"]["annotations"][0]["text"]
    assert all(panel.figure and panel.figure["data"] for panel in last.panels)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {}},
        {"draft_lengths": [0, 99]},
        {"draft_lengths": [0, 2, 1]},
        {"acceptance": [[0.5]]},
        {"drafters": []},
        {"padding": {"captured_rows": "all"}},
        {"parameters": gate()["cost_model"]["parameters"] | {"target.weights_s": -1.0}},
    ],
)
def test_a_cost_model_that_is_none_is_one_line(change: dict) -> None:
    broken = gate()["cost_model"] | change
    with pytest.raises(ValidationError):
        Described.model_validate(broken)
    with pytest.raises(UserError, match="timeline 0 has a gate whose cost_model") as caught:
        read(full_run() | {"timeline": [rollout(10) | {"gate": {"cost_model": broken}}]})
    assert "\n" not in str(caught.value)
