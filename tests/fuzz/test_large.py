"""A megabyte of anything is read, or refused, in the time that is given to one input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.grpo_math.problems import read_problems
from nemo_rl_efficientrollout import read_settings
from nemo_rl_efficientrollout.compare import read_run
from nemo_rl_efficientrollout.config import parse_overrides
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.files import read_bytes, read_json
from nemo_rl_efficientrollout.gate.calibration import load
from nemo_rl_efficientrollout.gate.model_constants import read_model_constants
from nemo_rl_efficientrollout.gate.sweep import read_sweep
from nemo_rl_efficientrollout.report import write_report
from tests.proof import Proof

from .documents import CONSTANTS, MODEL, PROBLEMS, REPORT, STEPS, SWEEP, as_csv, as_lines, calibration
from .oracle import counted

MEGABYTE = 2**20
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def lines(text: str) -> str:
    return text * (MEGABYTE // len(text))


def wide(**document: Any) -> str:
    """The document with so many more keys."""
    return json.dumps(document | {f"key{i}": i for i in range(60_000)})


TEXTS: dict[str, str] = {
    "one line": "x" * MEGABYTE,
    "brackets": "[" * MEGABYTE,
    "closed brackets": "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2),
    "flat list": "[" + lines("1,") + "1]",
    "list of lists": "[" + lines("[],") + "[]]",
    "number": "9" * MEGABYTE,
    "string": json.dumps("x" * MEGABYTE),
    "keys": wide(),
    "quotes": '"' * MEGABYTE,
    "commas": "batch,seq,gamma,mode,median_ms\n" + "," * MEGABYTE,
    "columns": ",".join(f"c{i}" for i in range(150_000)) + "\n",
    "equal columns": "batch,seq,gamma,mode,median_ms," + lines("x,") + "\n",
    "lines": "\n" * MEGABYTE,
    "sweep": as_csv(SWEEP) + lines("8,1024,3,target_verify,23,m\n"),
    "modes": as_csv(SWEEP) + f"8,1024,3,{'target' * 20_000},23,m\n",
    "constants": wide(**CONSTANTS),
    "model": wide(**MODEL),
    "layers": json.dumps(MODEL | {"model_type": "qwen3_moe", "mlp_only_layers": list(range(150_000))}),
    "drafters": json.dumps(calibration() | {"drafters": [f"d{i}" for i in range(100_000)]}),
    "parameters": json.dumps(calibration() | {"parameters": {f"p{i}": {"mean": 1, "std": 1} for i in range(30_000)}}),
    "covariance": json.dumps(calibration() | {"covariance_s2": [[0.0] * 400] * 400}),
    "problems": lines(as_lines(PROBLEMS[:2])),
    "answer": as_lines([{"problem": "x", "answer": "1+" * (MEGABYTE // 2)}]),
    "steps": "".join(json.dumps(STEPS[0] | {"step": step}) + "\n" for step in range(2_500)),
    "report": json.dumps(REPORT | {"reward": [0.5] * 150_000}),
    "many steps": json.dumps(REPORT | {"steps": 10**9}),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "calibration JSON": load,
    "model constants JSON": read_model_constants,
    "sweep CSV": read_sweep,
    "config.json": lambda file: model_shape(read_json(file, "give one"), 2),
    "problems JSONL": read_problems,
    "settings": lambda file: read_settings(parse_overrides([f"gate.seed={file.read_text()}", f"{file.read_text()}=1"])),
    "steps.jsonl": lambda file: read_run(str(file)),
    "report.json": lambda file: write_report(read_json(file, "give one"), file.with_name("report.html")),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_megabyte(reader: str, proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    with counted(f"a megabyte: {reader}", tmp_path, proof, both=False) as tally:
        for text in TEXTS.values():
            file.write_text(text)
            tally.judge(lambda: READERS[reader](file))


def test_devices_without_an_end_are_refused(proof: Proof, tmp_path: Path) -> None:
    with counted("device without an end", tmp_path, proof, both=False) as tally:
        assert not tally.judge(lambda: read_bytes(Path("/dev/zero"), "give a file"))
