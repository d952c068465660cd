"""The simulation of the paper's rollouts: its inputs are the published ones, and it judges itself honestly."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulate_paper
from benchmarks.paper_rollouts import Setting
from benchmarks.published_models import ENGINES, MODELS, REQUESTS
from nemo_rl_efficientrollout.simulate.completions import completion_seconds
from tests import sweeps

QWEN_7B = MODELS[0]


@pytest.mark.parametrize(
    ("index", "target", "drafter", "dense", "attention", "kv"),
    [
        (0, 15230974976, 5443042304, 14140571648, 401408, 57344),
        (1, 29539379200, 9721292800, 27981250560, 983040, 196608),
        (2, 16060522496, 5591539712, 15009316864, 524288, 131072),
    ],
)
def test_architectures_give_the_published_bytes_and_flops(
    index: int, target: int, drafter: int, dense: int, attention: int, kv: int
) -> None:
    found = MODELS[index].roofline.static
    assert (found.target_bytes, found.drafter_bytes, found.kv_bytes) == (target, drafter, kv)
    assert (found.dense_flops, found.attention_flops) == (dense, attention)


@pytest.mark.skipif(not sweeps.PUBLISHED.exists(), reason="the published constants lie beside the project only")
def test_constants_are_those_of_the_published_file() -> None:
    fitted = json.loads((sweeps.PUBLISHED / "a100_tp1_qwen257b.json").read_text())
    roofline, calibration = QWEN_7B.roofline, fitted["calibration"]
    assert roofline.bandwidth == pytest.approx(fitted["hardware"]["BW_eff"], rel=1e-9)
    names = ("kappa_eff", "eta_d", "c_T", "c_D", "c_V", "F_eff")
    found = (roofline.kv_bytes, roofline.eta, roofline.c_target, roofline.c_draft, roofline.c_verify, roofline.flops)
    assert found == tuple(calibration[name] for name in names)


@pytest.mark.parametrize("kind", ["forward", "engine"])
def test_plain_rollouts_complete_when_published(kind: str) -> None:
    setting = Setting(QWEN_7B, kind, rollouts=2)
    assert QWEN_7B.completions is not None
    for share, seconds in QWEN_7B.completions:
        assert completion_seconds(QWEN_7B.completions, np.array([share]))[0] == pytest.approx(seconds)
    assert setting.plain == pytest.approx([QWEN_7B.completions[-1][1]] * 2, rel=0.05)
    assert all(len(work) == ENGINES * REQUESTS for work in setting.works)


def test_the_implied_drafter_step_gives_the_measured_saving() -> None:
    setting = Setting(QWEN_7B, "forward", rollouts=1)
    other, extra = setting.implied()
    assert extra > 0.0
    saved = 1.0 - other.always_on()[0] / setting.plain[0]
    assert saved == pytest.approx(QWEN_7B.always_on.reduction, abs=1e-3)


def test_the_gate_comes_close_to_the_oracle() -> None:
    setting = Setting(QWEN_7B, "forward", rollouts=1)
    plain, oracle, gate = setting.plain[0], setting.oracle()[0], setting.gated()[0]
    assert plain - gate > 0.9 * (plain - oracle)
    assert gate > 0.98 * oracle  # sampled: its luck is worth a little


def test_a_quick_run_says_what_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "paper.json"
    assert simulate_paper.main(["--quick", "--quiet", "--json", str(file)]) == 0
    rows = {(row["times"], row["policy"]): row for row in json.loads(file.read_text())["results"]}
    reference = rows["forward", "reference"]
    assert reference["off_by"] == pytest.approx(reference["saved"] - QWEN_7B.reference.reduction)
    assert reference["within_goal"] == (abs(reference["off_by"]) <= simulate_paper.GOAL)
    assert rows["implied", "reference"]["within_goal"] is None
    for times in ("forward", "implied"):
        saved = [row["saved"] for (kind, name), row in rows.items() if kind == times and name != "diagnosis"]
        assert rows[times, "oracle"]["saved"] == max(saved)
    assert "0 of 2 with forward times" in capsys.readouterr().out


def test_bad_arguments_end_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        simulate_paper.main(["--rollouts", "0"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
