"""The report's figures in an offline W&B run, read back with W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path

import wandb

from examples.grpo_math.wandb_log import report_figures
from nemo_rl_efficientrollout.report.html import figures
from tests.reports import full_run


def test_an_offline_run_holds_every_figure_of_the_report(tmp_path: Path) -> None:
    quiet = wandb.Settings(x_disable_stats=True, console="off", silent=True)
    board = wandb.init(dir=tmp_path, mode="offline", project="tests", settings=quiet)
    board.log({"train/reward": 1.0}, step=6)
    board.log(report_figures(full_run()))
    board.finish()

    (folder,) = tmp_path.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (row,) = (record["history"]["item"] for record in map(json.loads, told.splitlines()) if record["type"] == "history")
    expected = figures(full_run())
    assert len(expected) == 13
    for name, figure in expected.items():
        assert row[f"report/{name}._type"] == "plotly-file"
        logged = json.loads((folder / "files" / row[f"report/{name}.path"]).read_text())
        assert [trace["name"] for trace in logged["data"]] == [trace["name"] for trace in figure["data"]]
        assert [trace["y"] for trace in logged["data"]] == [trace["y"] for trace in figure["data"]]
