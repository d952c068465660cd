"""`efficientrollout gate …`: what it prints, what it writes, and one line with exit code 2 for every mistake."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_rl_efficientrollout import cli
from nemo_rl_efficientrollout.gate.calibration import load
from nemo_rl_efficientrollout.gate.regret import acceptance_length
from tests import sweeps

LENGTHS = "0,3,7,11,15"
HEADER = "batch,seq,alpha\n"
COMMAND = [sys.executable, "-c", "from nemo_rl_efficientrollout.cli import main; main()"]


class Done:
    """What a command left behind."""

    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command in this process: a process of its own takes longer to start than all of these tests."""

    def call(*arguments: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["efficientrollout", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(end.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweeps.judged(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def calibration(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "c.json"
    done = subprocess.run([*COMMAND, "gate", "fit", "--sweep", sweep, "--out", path, "--quiet", "--gpu", "A100"])
    assert done.returncode == 0
    return path


def test_fit_writes_a_calibration_with_its_provenance(calibration: Path, sweep: Path) -> None:
    found = load(calibration).provenance
    assert (found.gpu, found.source, found.host) == ("A100", sweep.name, "")
    assert len(found.rows) in (403, 405)


def test_goals_through_the_command_line(run, calibration: Path, sweep: Path) -> None:
    found = json.loads(run("gate", "validate", "--calibration", calibration, "--sweep", sweep, "--json").out)
    own = found["regret"]["this calibration"]
    assert own["mean"] <= 0.006
    assert own["p95"] <= 0.045
    goals = {"3": 0.042, "7": 0.041, "11": 0.066, "15": 0.052}
    assert all(found["errors"]["cycle"][length] <= goal for length, goal in goals.items())
    assert found["sign_accuracy"] >= 0.94
    others = [regret["mean"] for name, regret in found["regret"].items() if name != "this calibration"]
    assert len(others) == 6
    assert own["mean"] < 0.5 * min(others)


def test_fit_with_24_rows_of_its_own_choice(run, sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    summary = json.loads(run("gate", "fit", "--sweep", sweep, "--max-rows", 24, "--out", out, "--json").out)
    assert summary["rows"] == len(summary["chosen"]) == 24
    assert summary["chosen"][0]["point"] == "1,256,0,target_decode"
    assert [row.point for row in load(out).provenance.rows] == [row["point"] for row in summary["chosen"]]
    found = json.loads(run("gate", "validate", "--calibration", out, "--sweep", sweep, "--json").out)
    assert found["regret"]["this calibration"]["mean"] <= 0.010
    assert found["regret"]["this calibration"]["p95"] <= 0.050


def test_fit_prints_the_rows_it_chose_and_uses_the_architecture(run, tmp_path: Path) -> None:
    sweep = sweeps.write(tmp_path / "s.csv", sweeps.measured(sweeps.truth()))
    constants = tmp_path / "m.json"
    constants.write_text(json.dumps(sweeps.QWEN_7B))
    out = tmp_path / "c.json"
    done = run("gate", "fit", "--sweep", sweep, "--model-constants", constants, "--max-rows", 8, "--out", out)
    assert done.code == 0
    assert sum(("s.csv:" in line and "256" in line) or "s.csv:" in line for line in done.out.splitlines()) >= 8
    assert "8 of 405 rows" in done.out
    ratio = load(out).prior.draft_ratio / (4 + 20 / 128) * 16
    assert min(abs(ratio - efficiency) for efficiency in (1.0, 1.6, 2.5)) < 1e-9


def test_fit_names_rows_that_their_neighbours_contradict(run, tmp_path: Path) -> None:
    timings = sweeps.measured(sweeps.truth(), mislabelled=0)
    wrong = 100
    timings[wrong] = sweeps.replace(timings[wrong], seconds=3 * timings[wrong].seconds)
    sweep = sweeps.write(tmp_path / "s.csv", timings)
    summary = json.loads(run("gate", "fit", "--sweep", sweep, "--out", tmp_path / "c.json", "--json").out)
    assert f"s.csv:{wrong + 2}" in summary["contradicted"]
    assert len(summary["contradicted"]) < 5


def test_decide_takes_the_fastest_predicted_length(run, calibration: Path) -> None:
    grid = "batch,seq,alpha,note\n1,1024,0.9,a\n64,4096,0.7,b\n4,512,0.98,c\n2,512,0,d\n"
    done = run("gate", "decide", "--calibration", calibration, "--draft-lengths", LENGTHS, stdin=grid)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.code == 0
    assert list(rows[0]) == ["batch", "seq", "alpha", "note", "gamma", "predicted_speedup"]
    assert [row["note"] for row in rows] == ["a", "b", "c", "d"]
    model = load(calibration).cost_model()
    for row in rows:
        batch, context, alpha = int(row["batch"]), float(row["seq"]), float(row["alpha"])
        speeds = {0: 1.0} | {
            g: acceptance_length(alpha, g)
            * model.seconds("plain", batch, context)
            / model.seconds("cycle", batch, context, g)
            for g in (3, 7, 11, 15)
        }
        assert int(row["gamma"]) == max(speeds, key=lambda g: speeds[g])
        assert float(row["predicted_speedup"]) == pytest.approx(max(speeds.values()), rel=1e-5)
    assert [row["gamma"] for row in rows[1::2]] == ["0", "0"]
    assert "0" not in [row["gamma"] for row in rows[::2]]
    assert [rows[1]["predicted_speedup"], rows[3]["predicted_speedup"]] == ["1", "1"]


def test_decide_with_a_header_alone_prints_a_header(run, calibration: Path) -> None:
    done = run("gate", "decide", "--calibration", calibration, "--draft-lengths", "3", stdin=HEADER)
    assert done.out == "batch,seq,alpha,gamma,predicted_speedup\n"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("", ["stdin is empty", "batch,seq,alpha"]),
        ("batch,seq\n1,2\n", ["stdin:1", "'alpha'"]),
        (HEADER + "1,256,0.5\n0,256,0.5\n", ["stdin:3", "batch", "'0'"]),
        (HEADER + "1.5,256,0.5\n", ["stdin:2", "batch", "'1.5'"]),
        (HEADER + "nan,256,0.5\n", ["stdin:2", "batch", "'nan'"]),
        (HEADER + "1e999,256,0.5\n", ["stdin:2", "batch"]),
        (HEADER + "1,-1,0.5\n", ["stdin:2", "seq", "'-1'"]),
        (HEADER + "1,,0.5\n", ["stdin:2", "seq", "empty"]),
        (HEADER + "1,256,1\n", ["stdin:2", "alpha", "'1'", "below 1"]),
        (HEADER + "1,256,-0.1\n", ["stdin:2", "alpha", "'-0.1'"]),
        (HEADER + "1,256,nan\n", ["stdin:2", "alpha", "'nan'"]),
        (HEADER + "1,256\n", ["stdin:2", "3 values"]),
        ("batch,seq,alpha,gamma\n1,2,0.5,3\n", ["stdin:1", "'gamma'", "already"]),
    ],
)
def test_bad_rows_are_named_before_anything_is_written(run, calibration: Path, grid: str, expected: list[str]) -> None:
    done = run("gate", "decide", "--calibration", calibration, "--draft-lengths", LENGTHS, stdin=grid)
    _check_mistake(done, expected)


@pytest.mark.parametrize("lengths", ["", "3,", "three", "-1", "0,33", "1.5"])
def test_bad_draft_lengths_are_named(run, calibration: Path, lengths: str) -> None:
    done = run("gate", "decide", "--calibration", calibration, f"--draft-lengths={lengths}", stdin=HEADER)
    _check_mistake(done, ["--draft-lengths", "0 to 32"])


def test_validate_prints_tables(run, calibration: Path, sweep: Path) -> None:
    out = run("gate", "validate", "--calibration", calibration, "--sweep", sweep).out
    for word in ("T_T", "T_D", "T_V", "cycle", "right sign", "plain decoding", "always γ = 15", "batch table", "p95"):
        assert word in out


def test_plot_writes_a_page_and_images(run, calibration: Path, sweep: Path, tmp_path: Path) -> None:
    done = run("gate", "plot", "--calibration", calibration, "--sweep", sweep, "--out", tmp_path / "new" / "plots")
    files = {Path(line).name for line in done.out.splitlines()}
    assert files == {"gate.html", "fit.png", "times.png", "decisions.png", "break_even.png"}
    assert {path.name for path in (tmp_path / "new" / "plots").iterdir()} == files
    page = (tmp_path / "new" / "plots" / "gate.html").read_text()
    figures = json.loads(page.split('id="data">')[1].split("</script>")[0])["figures"]
    assert list(figures) == ["fit", "times", "decisions", "break_even"]
    assert len(figures["fit"]["data"][1]["x"]) == 180
    assert (tmp_path / "new" / "plots" / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_a_sweep_and_without_matplotlib(
    run, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("gate", "plot", "--calibration", calibration, "--out", tmp_path / "plots")
    _check_mistake(done, ["matplotlib", "[plot]"])
    assert not (tmp_path / "plots").exists()


def test_probe_prints_what_the_detector_found(run, tmp_path: Path) -> None:
    config = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ("gate", "probe", "--model", tmp_path, "--max-rows", 4, "--seconds", 0.1, "--device", "cpu")
    found = json.loads(run(*arguments, "--json").out)
    assert [point["rows"] for point in found["curves"]["bf16"]] == [1, 2, 3, 4]
    assert found["bandwidth_bytes_per_s"] > 0
    table = run("gate", "probe", "--model", tmp_path / "config.json", *arguments[4:]).out
    for word in ("GB/s", "bf16", "rows", "no GPU"):
        assert word in table


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "--sweep", "/no/s.csv", "--out", "c.json"], ["cannot read /no/s.csv"]),
        (["fit", "--sweep", "SWEEP", "--out", "/no/such/c.json"], ["cannot write /no/such/c.json"]),
        (["fit", "--sweep", "SWEEP", "--out", "c.json", "--max-rows", "5"], ["--max-rows", "6"]),
        (["fit", "--sweep", "SWEEP", "--out", "c.json", "--max-rows", "x"], ["--max-rows"]),
        (["fit", "--sweep", "SWEEP", "--out", "c.json", "--model-constants", "/no/m.json"], ["cannot read /no/m.json"]),
        (["fit", "--sweep", "SWEEP"], ["--out"]),
        (["fit", "--swep", "SWEEP"], ["--swep"]),
        (["decide", "--calibration", "/no/c.json", "--draft-lengths", "3"], ["cannot read /no/c.json"]),
        (["decide", "--calibration", "SWEEP", "--draft-lengths", "3"], ["not valid JSON"]),
        (["validate", "--calibration", "CALIBRATION", "--sweep", "/no/s.csv"], ["cannot read /no/s.csv"]),
        (["validate", "--calibration", "/no/c.json", "--sweep", "SWEEP"], ["cannot read /no/c.json"]),
        (["plot", "--calibration", "CALIBRATION", "--out", "SWEEP/plots"], ["cannot write to"]),
        (["probe", "--model", "/no/model"], ["cannot read /no/model"]),
        (["probe", "--model", "SWEEP"], ["not valid JSON"]),
        (["probe", "--max-rows", "0"], ["--max-rows"]),
        (["probe", "--seconds", "0"], ["budget_s"]),
        (["probe", "--device", "tpu"], ["'tpu'"]),
        (["fitt"], ["fitt"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run, sweep: Path, calibration: Path, arguments: list[str], expected: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"SWEEP": str(sweep), "CALIBRATION": str(calibration), "SWEEP/plots": f"{sweep}/plots"}
    _check_mistake(run("gate", *[known.get(argument, argument) for argument in arguments]), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_whole_cycles_cannot_be_validated(run, calibration: Path, tmp_path: Path) -> None:
    timings = [t for t in sweeps.clean(sweeps.truth()) if (t.kind == "draft") == (t.batch == 1)]
    path = sweeps.write(tmp_path / "s.csv", timings)
    _check_mistake(run("gate", "validate", "--calibration", calibration, "--sweep", path), ["s.csv", "whole cycle"])


def test_rows_that_no_machine_produces_are_no_traceback(run, sweep: Path, tmp_path: Path, monkeypatch) -> None:
    def singular(*_: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("nemo_rl_efficientrollout.gate.fit.fit", singular)
    _check_mistake(run("gate", "fit", "--sweep", sweep, "--out", tmp_path / "c.json"), [sweep.name, "units"])
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_predicts_no_time_decides_nothing(run, calibration: Path, tmp_path: Path) -> None:
    content = json.loads(calibration.read_text())
    for parameter in content["parameters"].values():
        parameter["mean"] = 0.0
    (tmp_path / "c.json").write_text(json.dumps(content))
    arguments = ("gate", "decide", "--calibration", tmp_path / "c.json", "--draft-lengths", LENGTHS)
    _check_mistake(run(*arguments, stdin=HEADER + "1,256,0.5\n"), ["stdin:2", "c.json", "no time"])


@pytest.mark.parametrize("scale", [1e-5, 1e7])
def test_times_of_any_size_are_fitted(run, tmp_path: Path, scale: float) -> None:
    timings = [sweeps.replace(t, seconds=t.seconds * scale) for t in sweeps.measured(sweeps.truth())[::7]]
    sweep = sweeps.write(tmp_path / "s.csv", timings)
    done = run("gate", "fit", "--sweep", sweep, "--out", tmp_path / "c.json", "--quiet")
    assert (done.code, done.out, done.error) == (0, "", "")
    assert load(tmp_path / "c.json").cost_model().seconds("plain", 1, 256) == pytest.approx(0.01 * scale, rel=0.2)


def test_an_interrupted_fit_leaves_nothing(run, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nemo_rl_efficientrollout.gate.design.gains", interrupt)
    done = run("gate", "fit", "--sweep", sweep, "--max-rows", 24, "--out", tmp_path / "c.json")
    assert (done.code, done.out, done.error, list(tmp_path.iterdir())) == (130, "", "", [])


def test_a_reader_that_has_seen_enough_is_no_error(calibration: Path) -> None:
    grid = HEADER + "1,256,0.5\n" * 20_000
    command = [*COMMAND, "gate", "decide", "--calibration", calibration, "--draft-lengths", "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, error = process.communicate(grid.encode(), timeout=60)
    assert process.returncode == 1
    assert error == b""


def _check_mistake(done: Done, expected: list[str]) -> None:
    assert done.code == 2
    assert done.out == ""
    assert all(part in done.error for part in expected), done.error
    assert len(done.error.strip().splitlines()) == 1, done.error
