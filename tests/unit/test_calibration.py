"""The calibration file: what is saved is what is loaded, and nothing else is taken for one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.calibration import Calibration, Provenance, check_matches, from_fit, load, save
from nemo_rl_efficientrollout.gate.fit import Fit, fit
from nemo_rl_efficientrollout.gate.terms import Padding
from nemo_rl_efficientrollout.gate.timing import Timing
from tests import sweeps

TIMINGS = sweeps.measured(sweeps.truth())[::9]


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(TIMINGS)


@pytest.fixture
def calibration(fitted: Fit) -> Calibration:
    return from_fit(fitted, TIMINGS, Provenance(gpu="A100", model="7B", source="sweep.csv"))


def test_predictions_survive_the_file(fitted: Fit, calibration: Calibration, tmp_path: Path) -> None:
    save(calibration, tmp_path / "c.json")
    assert load(tmp_path / "c.json") == calibration
    model = load(tmp_path / "c.json").cost_model()
    assert model.terms.padding == fitted.model.terms.padding
    assert model.noise == pytest.approx(fitted.model.noise, rel=1e-9)
    for kind, batch, context, length in [("plain", 3, 700, 0), ("draft", 40, 99, 7), ("verify", 5, 8e4, 2)]:
        args: Any = (kind, batch, context, length)
        assert model.seconds(*args) == pytest.approx(fitted.model.seconds(*args), rel=1e-6)
        assert model.deviation(*args) == pytest.approx(fitted.model.deviation(*args), rel=1e-3)
    assert np.linalg.eigvalsh(model.covariance).min() > 0.0


def test_padding_and_drafters_survive_the_file(tmp_path: Path) -> None:
    padding = Padding(draft_to_cycle=True, captured_rows=(8, 16, 64))
    timings = [replace(t, drafter="ngram" if t.kind == "draft" else "self") for t in TIMINGS]
    saved = from_fit(fit(timings, paddings=[padding]), timings, Provenance())
    save(saved, tmp_path / "c.json")
    terms = load(tmp_path / "c.json").cost_model().terms
    assert terms.padding == padding
    assert terms.drafters == ("ngram", "self")


def test_rows_dates_and_weights_are_recorded(fitted: Fit, calibration: Calibration) -> None:
    rows = calibration.provenance.rows
    assert len(rows) == len(TIMINGS)
    assert rows[0].point == "1,256,0,target_decode"
    assert rows[3].weight == pytest.approx(fitted.weights[3], abs=5e-3)
    assert calibration.provenance.created.startswith("20")
    assert from_fit(fitted, TIMINGS, Provenance(created="2026-01-01")).provenance.created == "2026-01-01"


def test_engine_steps_are_recorded_too(fitted: Fit) -> None:
    step = Timing("step", 2, 64.0, 3, 0.01, drafted=5)
    one = Fit(fitted.model, fitted.prior, np.ones(1), 0.0)
    assert from_fit(one, [step], Provenance()).provenance.rows[0].point == "2,64,3,step+5"


def test_the_file_names_schema_units_and_is_readable_by_line(calibration: Calibration, tmp_path: Path) -> None:
    save(calibration, tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    content = json.loads(text)
    assert (content["schema"], content["version"]) == ("efficientrollout.calibration", 1)
    assert content["parameters"]["target.weights_s"]["mean"] > 0
    assert "covariance_s2" in content
    assert len(text.splitlines()) > len(content["parameters"]) * 2


def test_saving_fails_whole(calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", _full)
        with pytest.raises(UserError, match="No space"):
            save(calibration, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        save(calibration, tmp_path / "no" / "c.json")


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def _set(*keys: str, to: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        node = content
        for key in keys[:-1]:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if to is ...:
            del node[keys[-1]]
        else:
            node[int(keys[-1]) if isinstance(node, list) else keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("schema", to="other"), "schema 'other'"),
        (_set("version", to=2), "version 2"),
        (_set("version", to=...), "version None"),
        (_set("nonsense", to=1), "unknown key 'nonsense'"),
        (_set("padding", "nonsense", to=1), "unknown key 'padding.nonsense'"),
        (_set("provenance", to=...), "no key 'provenance'"),
        (_set("noise_relative", to=0.0), "noise_relative is 0.0"),
        (_set("noise_relative", to=float("nan")), "noise_relative is nan"),
        (_set("parameters", "target.weights_s", "mean", to=-1.0), "parameters.target.weights_s.mean is -1.0"),
        (_set("parameters", "target.weights_s", "mean", to=float("inf")), "target.weights_s.mean is inf"),
        (_set("parameters", "target.weights_s", "std", to=-1.0), "target.weights_s.std is -1.0"),
        (_set("parameters", "target.weights_s", "std", to=9.0), "another diagonal"),
        (_set("parameters", "target.weights_s", to=...), "'target.weights_s' is missing"),
        (_set("parameters", "target.weight_s", to={"mean": 1.0, "std": 1.0}), "did you mean 'target.weights_s'"),
        (_set("parameters", "target.weights_s", "mean", to=1e200), "target.weights_s.mean is 1e+200"),
        (_set("covariance_s2", "0", "0", to=1e300), "covariance_s2.0.0 is 1e+300"),
        (_set("schema", to="x" * 10**6), "schema 'xxx"),
        (_set("drafters", to=[]), "drafters"),
        (_set("drafters", to=[f"d{i}" for i in range(10**5)]), "drafters"),
        (_set("drafters", to=["self", "self"]), "twice"),
        (_set("drafters", to=["other"]), "unknown parameter 'draft.self."),
        (_set("covariance_s2", to=[[1.0]]), "rows of"),
        (_set("covariance_s2", "0", to=[1.0]), "rows of"),
        (_set("covariance_s2", "0", "1", to=1e-3), "not symmetric"),
        (_set("covariance_s2", "0", "1", to=float("nan")), "covariance_s2.0.1 is nan"),
        (lambda content: [_set("covariance_s2", a, b, to=1.0)(content) for a, b in ("01", "10")], "above 1"),
    ],
)
def test_other_contents_are_one_line(calibration: Calibration, tmp_path: Path, change: Any, expected: str) -> None:
    path = tmp_path / "c.json"
    save(calibration, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load(path)
    assert expected in str(caught.value), caught.value
    assert "c.json" in str(caught.value)
    assert "gate fit" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("{", "not valid JSON"), ("[]", "holds no JSON object"), (None, "cannot read")]
)
def test_files_that_are_none_are_one_line(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        load(tmp_path / "c.json")
    assert "\n" not in str(caught.value)


def test_a_mismatch_names_what_differs_and_unknown_is_no_mismatch(calibration: Calibration) -> None:
    assert check_matches(calibration, gpu="A100", model="7B", vllm="0.32.0") is None
    assert check_matches(calibration) is None
    found = check_matches(calibration, gpu="H100", model="8B", vllm="0.32.0")
    assert found == "calibrated for gpu 'A100', here 'H100'; model '7B', here '8B'"
