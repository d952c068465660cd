"""Every HTML page in a browser: nothing to complain of, all figures drawn, on a desktop, a phone, in the dark, printed.

Screenshots of every page stay in build/screenshots/.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nemo_rl_efficientrollout.cli import app
from nemo_rl_efficientrollout.compare.comparison import compare
from nemo_rl_efficientrollout.compare.html import render, render_reports
from nemo_rl_efficientrollout.compare.reports import Source, against_first, as_report
from nemo_rl_efficientrollout.report import gate_plot, write_report
from nemo_rl_efficientrollout.report.html import render as render_report
from nemo_rl_efficientrollout.report.html import write_page
from tests.reports import empty_run, full_run, without_speculation, write_job
from tests.runs import ACCELERATED, CONFIG, history, run
from tests.sweeps import measured, truth

selenium = pytest.importorskip("selenium", reason="selenium is not installed: make browser")
from .browser import Browser, browser, missing  # noqa: E402 - needs selenium

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"{missing()} is not installed: make browser")

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
DESKTOP, PHONE = 1280, 360
MOST_BYTES = 6e6


def several_runs(page: Path) -> None:
    contents = (without_speculation(12), full_run(12), full_run(12) | {"name": "int8", "alarms": []})
    sources = [write_job(page.parent / f"run-{i}", content) for i, content in enumerate(contents)]
    places = [Source(str(source)) for source in sources]
    write_page(render_reports(against_first(places, skip=1), [place.report() for place in places]), page)


def gate_page(page: Path) -> None:
    write_page(gate_plot.render(truth(), measured(truth()), "A machine"), page)


def nemo_rl_run(page: Path) -> None:
    write_page(render_report(as_report(run(history(40, speculating=True), ACCELERATED, "exp_001"))), page)


def comparison(page: Path) -> None:
    plain, fast = run(history(30), CONFIG, "plain"), history(30, speed=0.6, speculating=True, seed=1)
    write_page(render(compare(plain, run(fast, ACCELERATED, "fast"))), page)


def plan(page: Path) -> None:
    small = ("--draws", "4", "--lengths", "300:2000", "--prompts", "16", "--sweep", "batch=8,16")
    arguments = ["plan", "--model", "qwen2.5-7b", "--gpu", "h100", *small, "--html", str(page), "--quiet"]
    CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)


PAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "report": (lambda page: write_report(full_run(), page), 13),
    "report-without-speculation": (lambda page: write_report(without_speculation(), page), 4),
    "report-of-nothing": (lambda page: write_report(empty_run(), page), 0),
    "report-of-nemo-rl": (nemo_rl_run, 7),
    "report-of-several-runs": (several_runs, 39),
    "compare": (comparison, 13),
    "gate-plot": (gate_page, 4),
    "plan": (plan, 10),
}
"""How each page is written, and how many figures it has."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with browser() as one:
        yield one


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_everywhere(chromium: Browser, tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.html"
    write, figures = PAGES[name]
    write(page)
    assert page.stat().st_size < MOST_BYTES

    backgrounds = []
    for width, place in ((DESKTOP, "desktop"), (PHONE, "phone")):
        chromium.open(page, width)
        chromium.screenshot(SCREENSHOTS / f"{name}-{place}.jpg")
        assert chromium.complaints() == []
        plots = chromium.plots()
        assert len(plots) == figures
        for plot in plots:
            assert plot["width"] > 200, plot
            assert plot["height"] > 100, plot
            assert plot["drawn"] >= plot["traces"] > 0, plot
            assert plot["outside"] == [], plot
            assert len(plot["label"]) > 20
        assert chromium.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
        backgrounds.append(chromium.run("return getComputedStyle(document.body).backgroundColor"))
    with chromium.dark():
        chromium.screenshot(SCREENSHOTS / f"{name}-dark.jpg")
        dark = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert brightness(dark) < 60 < 200 < min(map(brightness, backgrounds))

    printed = chromium.pdf(SCREENSHOTS / f"{name}.pdf")
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 1
    assert chromium.complaints() == []


def test_another_rollout_can_be_picked(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    content = full_run()
    content["timeline"][0] |= {"active": [7] * 5000, "gate": None}
    write_report(content, page)
    chromium.open(page, DESKTOP)
    shown = "return [document.getElementById('sentence').textContent, document.getElementById('timeline').data[2].y[0]]"
    before = chromium.run(shown)
    chromium.run("const picker = document.getElementById('rollout'); picker.value = 0; picker.onchange?.();"
                 "picker.dispatchEvent(new Event('change'))")  # fmt: skip
    after = chromium.run(shown)
    assert (before[1], after[1]) == (64, 7)
    assert before[0] != after[0]
    assert "Not recorded for this rollout" in chromium.run("return document.getElementById('map').textContent")
    assert chromium.complaints() == []


def test_a_script_error_is_seen(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report(full_run(), page)
    page.write_text(page.read_text(encoding="utf-8").replace('id="reward"', 'id="lost"'), encoding="utf-8")
    chromium.open(page, DESKTOP)
    assert chromium.complaints()
    assert any(plot["drawn"] == 0 for plot in chromium.plots())


def brightness(color: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3
