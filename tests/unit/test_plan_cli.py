"""`efficientrollout plan`: what it prints and writes, and one line with exit code 2 for every mistake."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from nemo_rl_efficientrollout import cli
from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, save
from nemo_rl_efficientrollout.gate.fit import fit
from tests import sweeps
from tests.models import save_tiny_model

QUICK = ("plan", "--model", "qwen2.5-7b", "--gpu", "h100", "--draws", "4", "--lengths", "300:2000", "--prompts", "16")


class Done:
    """What a command left behind."""

    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["efficientrollout", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(end.value.code or 0), printed.out, printed.err)

    return call


def test_a_plan_says_the_same_on_the_screen_and_in_json(run) -> None:
    done, again = run(*QUICK), run(*QUICK, "--json", "-")
    assert (done.code, again.code, done.error) == (0, 0, "")
    plan = json.loads(again.out)
    assert "not measured" in plan["note"]
    assert "predicted, not measured" in done.out
    names = [way["name"] for way in plan["formats"]]
    assert sorted(names) == ["fp8", "fp8_block", "int4", "int4_symmetric", "int8"]
    steps = [way["step_s"]["p50"] for way in plan["formats"]]
    assert steps == sorted(steps)
    assert sum(way["fastest_share"] for way in [plan["plain"], *plan["formats"]]) == pytest.approx(1.0)
    for way in (*plan["formats"], plan["plain"]):
        assert way["rollout_s"]["p5"] <= way["rollout_s"]["p50"] <= way["rollout_s"]["p95"]
        assert re.search(rf"^ *{way['name']} .*{way['rollout_s']['p50']:.3g}", done.out, re.M)
    assert f"{plan['best']}: a rollout of" in done.out
    for kind in ("data sheet", "config.json", "guessed", "log-normal"):
        assert kind in done.out


def test_files_are_whole_and_the_page_needs_nothing_beside_itself(run, tmp_path: Path) -> None:
    page, file = tmp_path / "plan.html", tmp_path / "plan.json"
    swept = (
        "--sweep",
        "batch=8,16",
        "--sweep",
        "format=int8,fp8",
        "--sweep",
        "alpha=0.9,0.97",
        "--sweep",
        "tp=1,2",
        "--format",
        "int4",
        "--format",
        "int8",
    )
    done = run(*QUICK, "--html", page, "--json", file, "--sweep", "max-length=200,400", *swept, "--assumptions")
    assert done.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.html", "plan.json"]
    answers = json.loads(file.read_text())["what_if"]
    assert [(answer["axis"], answer["value"]) for answer in answers[:3]] == [
        ("max-length", 200),
        ("max-length", 400),
        ("batch", 8),
    ]
    assert len(answers) == 10
    assert "max-length = 200" in done.out
    assert "draft_layer_us" in done.out
    text = page.read_text().replace(get_plotlyjs(), "")
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "Predicted, not measured" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    figures = json.loads(data[1])["figures"]
    for name, one in figures.items():
        go.Figure(one)  # refuses a property that plotly does not know
        assert text.count(f'id="{name}"') == 1
    multiples = {f"{axis}-{kind}" for axis in ("batch", "max-length", "alpha", "format", "tp")
                 for kind in ("rollout", "ratio", "step", "speculating")}  # fmt: skip
    assert figures.keys() == multiples | {"rollout-seconds", "step-seconds", "ratio", "memory", "active", "lengths"}
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in ran.stderr.splitlines() if "CONSOLE" in line] == []
    body = ran.stdout[ran.stdout.index("<body") :].replace(get_plotlyjs(), "")
    assert len(re.findall(r'class="plot js-plotly-plot"', body)) == len(figures)


def test_quiet_prints_nothing(run, tmp_path: Path) -> None:
    done = run(*QUICK, "--quiet", "--format", "int4", "--json", tmp_path / "plan.json")
    assert (done.code, done.out, done.error) == (0, "", "")
    assert json.loads((tmp_path / "plan.json").read_text())["best"]


def test_a_folder_is_a_model_and_a_calibration_takes_the_place_of_the_guess(run, tmp_path: Path) -> None:
    timings = sweeps.measured(sweeps.truth())
    file = tmp_path / "cal.json"
    save(from_fit(fit(timings), timings, Provenance(gpu="some GPU", model="some model")), file)
    model = save_tiny_model(tmp_path / "tiny", "llama")
    here = ("plan", "--model", model, "--gpu", "a100", "--draws", 4, "--lengths", "50:200", "--format", "int8")
    guess, known = run(*here, "--json", "-"), run(*here, "--json", "-", "--calibration", file)
    assert (guess.code, known.code) == (0, 0)
    one, other = json.loads(guess.out), json.loads(known.out)
    assert other["inputs"]["step times (measured)"].startswith("cal.json (some GPU, some model")
    assert "bandwidth" in {each["name"] for each in one["assumptions"]}
    assert "bandwidth" not in {each["name"] for each in other["assumptions"]}
    seconds = [plan["plain"]["rollout_s"]["p50"] for plan in (one, other)]
    assert seconds[1] > 5 * seconds[0]  # times of a 7B model, not those of a tiny one


def test_nothing_that_fits_is_exit_code_one_and_says_why(run) -> None:
    done = run("plan", "--model", "llama-3.1-70b", "--gpu", "h100", "--draws", 4)
    assert done.code == 1
    assert "plain: policy 131.4 GiB" in done.out
    assert "--tp" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpu", "h10"), "did you mean 'h100'"),
        (("--model", "qwen2.5-8b"), "did you mean"),
        (("--format", "int3"), "--format int3: unknown (did you mean 'int8'?)"),
        (("--nodes", 2, "--engines", 3), "give one of them"),
        (("--tp", 3), "8 GPUs do not divide"),
        (("--tp", 8), "num_attention_heads 28 does not divide"),
        (("--lengths", "nothing"), "no such file or preset"),
        (("--acceptance", "0.9-1.2"), "expected rates from 0 to below 1"),
        (("--acceptance", "int3=0.9"), "'int3' is not planned for"),
        (("--acceptance", "high"), "expected one rate, or LOW-HIGH"),
        (("--calibration", "x.json"), "say with one --format which"),
        (("--calibration", "x.json", "--format", "int8"), "cannot read x.json"),
        (("--sweep", "batches=1"), "did you mean 'batch'"),
        (("--sweep", "tp=1,16"), "do not divide into engines"),
        (("--sweep", "tp=8"), "num_attention_heads 28 does not divide"),
        (("--html", "no/such/plan.html"), "its folder does not exist"),
        (("--draws", 1), "draws"),
        (("--stragglers", 9), "9 stragglers of 8 engines"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    run, arguments: tuple[object, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*QUICK, *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.error
    assert done.error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_cancelled_plan_writes_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    file.write_text("old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("nemo_rl_efficientrollout.plan.forecast"), "_draw", interrupted)
    done = run(*QUICK, "--json", file)
    assert (done.code, done.out) == (130, "")
    assert "cancelled" in done.error
    assert file.read_text() == "old"
