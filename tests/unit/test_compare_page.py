"""The page of a comparison: every figure, nothing from the network, hostile names, a browser."""

import json
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from nemo_rl_efficientrollout.compare.comparison import Comparison, compare
from nemo_rl_efficientrollout.compare.figures import LEAST_BAND, POINTS, draw
from nemo_rl_efficientrollout.compare.html import render, write_comparison
from nemo_rl_efficientrollout.compare.metrics import GENERATION, MISMATCH, PER_TOKEN, REWARD, STEP_TIME
from nemo_rl_efficientrollout.errors import UserError
from tests.runs import ACCELERATED, CONFIG, history, run

FIGURES = {
    *("ratios", "positions", "timing-train-generation", "derived-generation_seconds_per_token"),
    *("timing-train-total_step_time", "train-mean_gen_tokens_per_sample", "train-reward"),
    *("train-token_mult_prob_error", "train-vllm-spec_acceptance_rate", "train-vllm-spec_acceptance_length"),
    *("train-efficientrollout-speculating_fraction", "train-efficientrollout-draft_length_mean", "refit-requantize_s"),
}


def compared(steps: int = 30, name: str = "plain") -> Comparison:
    plain = run(history(steps), CONFIG, name)
    return compare(plain, run(history(steps, speed=0.6, speculating=True, seed=1), ACCELERATED, "fast"))


def text_of(found: Comparison) -> str:
    """The page without plotly.js, whose text would answer any search."""
    return render(found).replace(get_plotlyjs(), "")


def test_every_figure_is_there_and_plotly_accepts_it():
    found = compared()
    text = text_of(found)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    figures = json.loads(data[1])["figures"]
    assert figures.keys() == FIGURES
    for name, one in figures.items():
        go.Figure(one)  # refuses a property that plotly does not know
        assert text.count(f'id="{name}"') == 1
    for name in (GENERATION, PER_TOKEN, STEP_TIME, REWARD, MISMATCH):
        assert f"<dd>{name}</dd>" in text


def test_over_steps_both_runs_have_a_line_and_a_band_around_it():
    found = compared(steps=100)
    figures = {name: one for name, _, one in draw([found])}
    traces = figures["timing-train-generation"]["data"]
    for side in ("A: plain", "B: fast"):
        mine = {t["name"]: t["y"] for t in traces if t["name"].startswith(side) and t["mode"] == "lines"}
        low, high, line = mine[f"{side}, low"], mine[f"{side}, high"], mine[side]
        assert all(bottom <= middle <= top for bottom, middle, top in zip(low, line, high, strict=True))
        assert any(bottom < top for bottom, top in zip(low, high, strict=True))
    lines, dots = ({tuple(t["x"]) for t in traces if t["mode"] == mode} for mode in ("lines", "markers"))
    assert lines == {tuple(found.steps)}  # without the warm-up, which is shown as a dot
    assert dots == {(1, *found.steps)}
    assert [t["fill"] for t in traces if "fill" in t] == ["tonexty"] * 2


def test_short_runs_have_no_band_and_long_ones_are_thinned():
    short = {name: one for name, _, one in draw([compared(steps=LEAST_BAND - 1)])}
    assert not any("fill" in trace for trace in short["train-reward"]["data"])
    long = {name: one for name, _, one in draw([compared(steps=5000)])}
    assert 100 < len(long["train-reward"]["data"][0]["x"]) <= 6 * POINTS


def test_intervals_of_ratios_are_drawn_where_they_are():
    found = compared()
    figures = {name: one for name, _, one in draw([found])}
    trace = figures["ratios"]["data"][0]
    place = trace["y"].index("Rollout time")
    interval = found.metrics[GENERATION].interval
    assert interval
    assert trace["x"][place] - trace["error_x"]["arrayminus"][place] == pytest.approx(interval.low, rel=1e-3)
    assert trace["x"][place] + trace["error_x"]["array"][place] == pytest.approx(interval.high, rel=1e-3)


def test_the_page_asks_the_network_for_nothing():
    text = text_of(compared())
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_hostile_names_stay_text():
    text = text_of(compared(name="</script><script>alert(1)</script>"))
    assert "<script>alert" not in text


def test_page_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_comparison(compared(), tmp_path / "file" / "page.html")
