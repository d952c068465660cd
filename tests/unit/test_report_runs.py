"""`efficientrollout report`: one run, several against the first, logs of NeMo-RL, and one line for every mistake."""

import json
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from typer.testing import CliRunner

from nemo_rl_efficientrollout.cli import app
from nemo_rl_efficientrollout.compare.html import render_reports
from nemo_rl_efficientrollout.compare.metrics import GENERATION
from nemo_rl_efficientrollout.compare.reports import MOST_RUNS, Source, against_first, as_report
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.report.html import render
from tests.reports import full_run, rollout, without_speculation, write_job
from tests.runs import ACCELERATED, CONFIG, history, run, write_tensorboard


def command(*arguments: str | Path) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def content(name: str, seconds: float = 40.0, steps: int = 12) -> dict:
    """A run whose rollouts take about `seconds`."""
    times = [seconds * (1 + 0.01 * (i % 3)) for i in range(steps)]
    changed = {"name": name, "rollout_seconds": times, "timeline": [rollout(60, step=steps)]}
    return full_run(steps) | changed | {"total_seconds": [time + 17.0 for time in times]}


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A plain run, one in half of its time, and one in twice its time."""
    made = (content("plain"), content("fast", 20.0), content("slow", 80.0))
    return [write_job(tmp_path / one["name"], one) for one in made]


def page_of(runs: list[Path]) -> str:
    """The page without plotly.js, whose text would answer any search."""
    sources = [Source(str(place)) for place in runs]
    reports = [source.report() for source in sources]
    return render_reports(against_first(sources, skip=1), reports).replace(get_plotlyjs(), "")


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def test_one_run_is_drawn_in_its_folder_or_where_it_is_wanted(three: list[Path], tmp_path: Path) -> None:
    assert command(three[0]).strip() == str(three[0] / "report.html")
    assert "<h1>plain</h1>" in (three[0] / "report.html").read_text(encoding="utf-8")
    assert command(three[0], "--out", tmp_path / "new" / "a.html").strip() == str(tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").exists()


def test_several_runs_are_held_against_the_first_with_intervals(three: list[Path]) -> None:
    text = page_of(three)
    data = data_of(text)
    by_name = {trace["name"]: trace for trace in data["figures"]["ratios"]["data"]}
    assert by_name.keys() == {"B / A", "C / A"}
    for name, expected in (("B / A", 0.5), ("C / A", 2.0)):
        trace = by_name[name]
        place = trace["y"].index("Rollout time")
        assert trace["x"][place] == pytest.approx(expected)
        assert trace["error_x"]["array"][place] < 0.2 * expected
    lines = {trace["name"] for trace in data["figures"]["timing-train-generation"]["data"] if trace["mode"] == "lines"}
    assert {"A: plain", "B: fast", "C: slow"} <= lines
    assert "Rollout time: B is ×\u00a00.500 of A" in text
    assert "Rollout time: C is ×\u00a02.000 of A" in text
    for label in "ABC":  # and the report of each
        assert {f"{label}-reward", f"{label}-spent"} <= data["figures"].keys()
        assert data["pickers"][f"{label}-rollout"]
        assert text.count(f'id="{label}-timeline"') == 1
    for figure in data["figures"].values():
        go.Figure(figure)


def test_comparison_uses_the_intervals_of_compare(three: list[Path]) -> None:
    sources = [Source(str(place)) for place in three]
    assert [one.label for one in against_first(sources, skip=1)] == ["B", "C"]
    without, with_first = (against_first(sources, skip)[0].metrics[GENERATION] for skip in (1, 0))
    assert (without.pairs, with_first.pairs) == (11, 12)
    assert without.interval


def test_logs_of_nemo_rl_have_figures_and_say_what_they_lack(tmp_path: Path) -> None:
    folder = write_tensorboard(tmp_path / "exp_001" / "tensorboard", history(8, speculating=True), ACCELERATED)
    text = Source(str(folder)).report()
    assert text.name == "exp_001"
    assert text.numbers == list(range(1, 9))
    page = render(text).replace(get_plotlyjs(), "")
    assert data_of(page)["figures"].keys() == {
        *("reward", "response", "seconds", "acceptance-rate", "acceptance-length", "speculating", "requantize"),
    }
    (missing,) = re.findall(r"and so not drawn: (.*?)</p>", page)
    assert "Rollout over time" in missing


def test_a_plain_log_of_nemo_rl_has_no_acceptance_that_was_not_measured() -> None:
    plain = as_report(run(history(8), CONFIG))
    assert set(plain.series["acceptance_rate"]) == {None}
    assert plain.tokens
    assert plain.tokens == pytest.approx(8 * 32 * 500, rel=0.1)


def test_a_run_without_speculation_can_be_the_base(tmp_path: Path) -> None:
    places = [write_job(tmp_path / "a", without_speculation(12)), write_job(tmp_path / "b", content("fast"))]
    text = page_of(places)
    assert len(re.findall("Not recorded in this run", text)) == 1
    assert "train-vllm-spec_acceptance_rate" in data_of(text)["figures"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "report.json").write_text("{"), "report.json is not valid JSON"),
        (lambda folder: (folder / "report.json").write_text("[]"), "report.json holds no JSON object"),
        (lambda folder: (folder / "report.json").write_bytes(b"\xff"), "report.json"),
        (
            lambda folder: (folder / "report.json").write_text('{"name": 1}'),
            "report.json: the report has no 'settings'",
        ),
        (lambda folder: (folder / "steps.jsonl").write_text("{}\n"), "steps.jsonl:1 has no 'step'"),
    ],
)
def test_what_is_wrong_with_one_of_several_runs_is_named(three: list[Path], tmp_path: Path, spoil, named) -> None:
    spoil(three[1])
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        command(*three, "--out", tmp_path / "page.html")
    assert str(three[1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_too_many_runs_are_refused(three: list[Path]) -> None:
    with pytest.raises(UserError, match="give at most 8"):
        against_first([Source(str(three[0]))] * (MOST_RUNS + 1), skip=1)
