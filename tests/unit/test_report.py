"""The HTML report: whole, partial and empty runs; hostile strings; atomic writing; a browser."""

import json
import os
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.report import write_report
from nemo_rl_efficientrollout.report.html import render
from nemo_rl_efficientrollout.report.reading import FACTS, TRAINING, read
from nemo_rl_efficientrollout.report.rollout import Timeline
from nemo_rl_efficientrollout.report.thinning import keep_extremes, windowed_rate
from nemo_rl_efficientrollout.report.timeline import draw, sentence
from nemo_rl_efficientrollout.report.words import comparison, freshness, tiles
from tests.reports import empty_run, full_run, gate, rollout, without_speculation

FIGURES = 13  # of a full run: three of a rollout, the comparison, and nine by step


def page(report: dict, folder: Path) -> str:
    """The written page without plotly.js, whose text would answer any search."""
    path = folder / "report.html"
    write_report(report, path)
    return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def figures_of(text: str) -> dict[str, dict]:
    """Every figure of a page by its name, as the browser will see it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    data = json.loads(found[1])
    drawn = dict(data["figures"])
    for index, option in enumerate(data["pickers"].get("rollout", [])):
        for name, one in option["figures"].items():
            drawn[f"{name}-{index}"] = {key: one[key] for key in ("data", "layout")}
    return drawn


def timeline_of(columns: dict) -> Timeline:
    return read(empty_run() | {"timeline": [columns]}).timelines[0]


def test_full_run_has_every_figure_and_plotly_accepts_them(tmp_path):
    text = page(full_run(), tmp_path)
    drawn = figures_of(text)
    assert len(drawn) == FIGURES + 3  # two rollouts share places
    for one in drawn.values():
        go.Figure(one)  # refuses a property that plotly does not know
    assert text.count('class="plot"') == FIGURES
    for words in ("0.25 → ", "1.23\u00a0M", "80\u00a0%", "× 0.81", "gate.<wbr>policy", "1,543,714,304"):
        assert words in text
    assert '<option value="1" selected>6</option>' in text


def test_the_page_asks_the_network_for_nothing(tmp_path):
    text = page(full_run(), tmp_path)
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "default-src 'none'" in text


def test_empty_run_says_so_in_words(tmp_path):
    text = page(empty_run(), tmp_path)
    assert figures_of(text) == {}
    assert "ended before its first step" in text
    (missing,) = re.findall(r"and so not drawn: (.*?)</p>", text)
    assert len(re.findall("“.*?”", missing)) == FIGURES
    assert "<figure>" not in text


def test_a_run_without_speculation_says_what_is_missing_and_draws_the_rest(tmp_path):
    text = page(without_speculation(), tmp_path)
    (missing,) = re.findall(r"and so not drawn: (.*?)</p>", text)
    for title in ("Acceptance rate", "Decision map and the rollout&#x27;s path", "Where each second of rollouts went"):
        assert title.replace("&#x27;", "'") in missing
    assert figures_of(text).keys() == {"reward", "response", "seconds", "timeline-0"}


def test_alarms_are_on_top_and_marked_in_every_figure_over_steps(tmp_path):
    alarms = [{"step": step, "name": "stale_drafter", "text": "nothing is drafted"} for step in (5, 3, 3)]
    text = page(full_run() | {"alarms": alarms}, tmp_path)
    assert "Alarm stale_drafter at steps 3, 5: nothing is drafted" in text[: text.index("<main>")]
    assert page(full_run() | {"alarms": []}, tmp_path).count('class="notice bad') == 0
    for name, one in figures_of(text).items():
        marks = [shape["x0"] for shape in one["layout"].get("shapes", []) if shape["line"].get("dash") == "dot"]
        assert marks == ([] if name == "ratio" or name[-1].isdecimal() else [3, 5])


def test_seconds_are_told_in_words_by_their_share(tmp_path):
    text = page(full_run() | {"requantize_seconds": [2.0] * 6}, tmp_path)
    shares = "plain decoding 50\u00a0%, verifying 22\u00a0%, drafting 15\u00a0%, steps with prefills 5\u00a0%"
    assert f"Of 240 s of rollouts and re-quantizing: {shares}" in text


@pytest.mark.parametrize("missing", sorted(full_run().keys() - {*FACTS, *TRAINING}))
def test_optional_parts_may_be_missing_or_null(missing):
    partial = full_run() | {"timeline": [rollout(50)]}
    del partial[missing]
    assert render(read(partial | {missing: None})) == render(read(partial))


@pytest.mark.parametrize("key", [*FACTS, *TRAINING])
def test_a_missing_required_key_is_named(tmp_path, key):
    broken = full_run()
    del broken[key]
    with pytest.raises(UserError, match=f"'{key}'") as caught:
        write_report(broken, tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reward": 3}, "'reward'"),
        ({"reward": ["high"]}, "'reward'"),
        ({"settings": "fast"}, "'settings'"),
        ({"steps": None}, "'steps'"),
        ({"steps": 10**9}, "'steps'"),
        ({"timeline": [{"seconds": [0]}]}, "'active'"),
        ({"seconds_spent": [3.0]}, "'seconds_spent'"),
        ({"alarms": {"step": 1}}, "'alarms'"),
        ({"alarms": [{"name": "low"}]}, "'step'"),
        ({"timeline": [{"seconds": [0, 1], "active": [1]}]}, "'active'"),
    ],
)
def test_wrong_kinds_are_named(tmp_path, change, named):
    with pytest.raises(UserError, match=named):
        write_report(full_run() | change, tmp_path / "report.html")


def test_none_and_nan_leave_gaps_and_lists_of_unequal_length_are_padded(tmp_path):
    report = full_run() | {"reward": [0.1, None, float("nan")], "train_seconds": [None] * 6}
    drawn = figures_of(page(report, tmp_path))
    assert drawn["reward"]["data"][0]["y"] == [0.1, None, None, None, None, None]
    assert [trace["y"][0] for trace in drawn["seconds"]["data"]][1] is None


def test_hostile_strings_are_harmless(tmp_path):
    evil = "</script><script>alert('x')</script>"
    report = full_run() | {
        "name": evil,
        "settings": {evil: evil, "inner": {evil: [evil]}},
        "model": {"path": evil, "parameters": evil},
        "machine": {"gpu": f'" onload="{evil}'},
        "alarms": [{"step": 1, "name": evil, "text": evil}],
    }
    report["timeline"][-1]["gate"] = gate() | {"seed": evil, "trace": [gate()["trace"][-1] | {"why": evil}]}
    text = page(report, tmp_path)
    assert "<script>alert" not in text
    assert 'onload="' not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(&#x27;x&#x27;)" in text
    page(report | {"name": "lone surrogate \ud800"}, tmp_path)


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(full_run(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_makes_the_folder_and_replaces_the_old_report(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(empty_run(), path)
    write_report(full_run(), path)
    assert "grpo on arithmetic" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_a_long_run_stays_about_the_size_of_plotly(tmp_path):
    path = tmp_path / "report.html"
    write_report(full_run(steps=3000) | {"timeline": [rollout(1200, step=i) for i in range(60)]}, path)
    assert path.stat().st_size < 1.3 * len(get_plotlyjs())


def test_thinning_keeps_extremes_at_their_place():
    x = [float(i) for i in range(10_000)]
    flat: list[float | None] = [5.0] * len(x)
    flat[3333], flat[7777], flat[100] = 99.0, -99.0, None
    kept = keep_extremes(x, [flat], 50)
    assert {0, 3333, 3334, 7777, 7778, 9999} <= set(kept)
    assert kept == sorted(set(kept))
    assert len(kept) <= 50 * 5 + 2


def test_thinning_leaves_short_and_flat_axes_alone():
    assert keep_extremes([], [], 10) == []
    assert keep_extremes([1.0, 2.0], [[3.0, 4.0]], 10) == [0, 1]
    assert keep_extremes([2.0] * 30, [[1.0] * 30], 10) == [0, 1, 29]


def test_acceptance_over_time_counts_every_token():
    x, tried = [0.0, 1.0, 2.0, 3.0], [4.0, 6.0, 0.0, 0.0]
    centers, rates = windowed_rate(x, [1.0, 4.0, 0.0, 0.0], tried, 2)
    assert centers == [0.75, 2.25]
    assert rates == [0.5, None]
    assert windowed_rate([], [], [], 2) == ([], [])


def test_the_timeline_shows_speculation_in_the_tail():
    timeline = timeline_of(rollout())
    plain, speculating, *_ = draw(timeline, 300)["data"]
    begun = next(t for t, y in zip(speculating["x"], speculating["y"], strict=True) if y > 0)
    assert begun == pytest.approx(0.01 * 3500, abs=0.2)
    assert plain["x"][-2:] == [pytest.approx(49.98), pytest.approx(49.99)]  # the last step, from its start to its end
    both = zip(plain["y"], speculating["y"], strict=True)
    assert all((a == 0) != (b == 0) for a, b in both)  # they take turns
    assert max(speculating["y"]) == 8
    assert "30\u00a0% of this rollout" in sentence(timeline)
    assert "at most 8 of 64 requests" in sentence(timeline)
    assert "50\u00a0% accepted" in sentence(timeline)
    speeds = draw(timeline, 300)["data"][-1]
    assert speeds["name"] == "tokens per second"
    assert speeds["y"][0] == pytest.approx(100 * 64, rel=0.03)  # a token for each request every 10 ms
    assert speeds["y"][-1] == pytest.approx(100 * 3)  # and two accepted drafts


def test_a_timeline_may_be_plain_single_or_have_holes():
    plain = timeline_of({"seconds": [0, 1], "active": [4, 2]})
    assert "No speculation" in sentence(plain)
    single = timeline_of({"seconds": [0.0], "active": [3], "draft_length": [2]})
    assert "at most 3 of 3" in sentence(single)
    go.Figure(draw(single, 300))
    holes = timeline_of({"seconds": [1, None, 0], "active": [4, 3, 5], "draft_length": [None] * 3})
    assert holes.seconds == [0.0, 1.0]
    assert holes.active == [5.0, 4.0]
    assert not read(empty_run() | {"timeline": [{"seconds": [], "active": []}]}).timelines


def test_unnumbered_timelines_belong_to_the_last_steps():
    run = read(full_run(steps=6) | {"timeline": [rollout(10), rollout(10)]})
    assert [timeline.step for timeline in run.timelines] == [5, 6]


def test_the_comparison_claims_no_more_than_it_measured():
    def said(**values):
        ratio = read(full_run() | {"rollout_ratio": values}).ratio
        assert ratio
        return comparison(ratio)

    assert "19\u00a0% less time" in said(median=0.81, min=0.75, max=0.9, pairs=5)
    assert "20\u00a0% more time" in said(median=1.2, min=1.1, max=1.3, pairs=5)
    assert "no sure difference" in said(median=0.97, min=0.9, max=1.1, pairs=5)
    assert "1 pair " in said(median=0.9)


def test_a_stale_drafter_is_announced():
    assert freshness(read(empty_run())) is None
    assert (freshness(read(full_run())) or (False,))[0]
    stale = full_run() | {"drafter_version_lag": [0, 0, 1, 0, 0, 0]}
    fresh, words = freshness(read(stale)) or (True, "")
    assert not fresh
    assert "1 of 6 steps (first: step 3)" in words


def test_tiles_of_a_run_without_speculation_show_dashes():
    values = {tile.label: tile.value for tile in tiles(read(empty_run()))}
    assert values["Acceptance rate"] == values["Reward"] == "–"
    assert "Rollout time vs plain" not in values
