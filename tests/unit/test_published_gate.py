"""The baseline is the published one: its fit finds known constants, on the published sweep the published ones."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import gate_regret
from benchmarks.published_gate import fit_published
from nemo_rl_efficientrollout.gate.model_constants import ModelConstants
from nemo_rl_efficientrollout.gate.timing import Timing
from nemo_rl_efficientrollout.simulate.roofline import Roofline, static
from tests import sweeps

CONSTANTS = ModelConstants.model_validate(sweeps.QWEN_7B)
PUBLISHED = Roofline(static(CONSTANTS), 1617462633773.974, 26205, 1.334, 39.0, 69.0, 152.3)
"""a100_tp1_qwen257b.json."""


def timings() -> list[Timing]:
    """The published sweep; where it is missing, times that the published model predicts."""
    if sweeps.SWEEP_7B.exists():
        return sweeps.read_sweep(sweeps.SWEEP_7B)
    return _predicted(PUBLISHED)


def _predicted(model: Roofline) -> list[Timing]:
    found = []
    for t in sweeps.clean(sweeps.truth()):
        batch, context, length = (np.array(float(x)) for x in (t.batch, t.context, t.draft_length))
        predict = {"plain": model.plain, "draft": model.draft}.get(t.kind)
        seconds = predict(batch, context) if predict else model.verify(batch, context, length)
        found.append(Timing(t.kind, t.batch, t.context, t.draft_length, float(seconds)))
    return found


def test_the_fit_finds_the_published_constants() -> None:
    _check(fit_published(timings(), CONSTANTS), PUBLISHED)


def test_the_fit_finds_other_constants() -> None:
    other = Roofline(static(CONSTANTS), 1.2e12, 40000, 2.0, 60.0, 30.0, 300.0)
    _check(fit_published(_predicted(other), CONSTANTS), other)


def _check(found: Roofline, expected: Roofline) -> None:
    assert found.bandwidth == pytest.approx(expected.bandwidth, rel=1e-4)
    assert found.kv_bytes == pytest.approx(expected.kv_bytes, rel=1e-3)
    assert found.eta == pytest.approx(expected.eta, abs=2e-3)
    assert found.c_target == pytest.approx(expected.c_target, abs=0.2)
    assert found.c_draft == pytest.approx(expected.c_draft, abs=0.5)
    assert found.c_verify == pytest.approx(expected.c_verify, abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "--sweep"),
        (["--sweep", "/no/s.csv"], "/no/s.csv"),
        (["--sweep", "SWEEP", "--model-constants", "/no/m.json"], "/no/m.json"),
        (["--sweep", "SWEEP", "--json", "no-such-folder/r.json"], "no-such-folder"),
        (["--sweep", "SWEEP", "--seeds", "0"], "--seeds"),
    ],
)
def test_bad_arguments_end_with_one_line(arguments: list[str], names: str, tmp_path: Path, capsys) -> None:
    sweep = sweeps.write(tmp_path / "s.csv", sweeps.clean(sweeps.truth()))
    with pytest.raises(SystemExit) as end:
        gate_regret.main([str(sweep) if argument == "SWEEP" else argument for argument in arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert names in error
    assert error.count("\n") == 1
