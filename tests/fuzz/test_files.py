"""Files that users give: calibrations, model constants, sweeps, grids, a model's config.json, problems."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.grpo_math.inputs import checked_problems
from examples.grpo_math.model_directory import check_model_directory
from examples.grpo_math.options import Options, settings_from
from examples.grpo_math.problems import read_problems
from nemo_rl_efficientrollout.cli.gate import decide
from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.drafter.size import drafter_size, policy_size
from nemo_rl_efficientrollout.files import read_json
from nemo_rl_efficientrollout.gate.calibration import load, save
from nemo_rl_efficientrollout.gate.detector import layer_shapes
from nemo_rl_efficientrollout.gate.model_constants import read_model_constants
from nemo_rl_efficientrollout.gate.sweep import model_name, read_sweep
from tests.proof import Proof

from .documents import CONSTANTS, EXPERTS, GRID, MODEL, PROBLEMS, SWEEP, as_csv, as_lines, calibration
from .oracle import counted
from .wild import choice, damaged, file_of, profile, scalars, seeds, words

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CALIBRATION = calibration()
LENGTHS = st.one_of(st.just("0,3,7"), st.sampled_from(("3", "32", "33", "")), choice(["9" * 5000]), words)


def test_calibrations(proof: Proof, tmp_path: Path) -> None:
    file, again = tmp_path / "calibration.json", tmp_path / "again.json"
    with counted("calibration JSON", tmp_path, proof) as tally:

        @profile(proof, full=9_000, quick=150)
        @given(file_of(CALIBRATION), seeds)
        def run(data: bytes, seed: int) -> None:
            def read() -> None:
                found = load(file)
                found.cost_model().seconds("plain", 3, 100.0, 0)
                save(found, again)

            for content in damaged(data, seed):
                file.write_bytes(content)
                tally.judge(read)

        run()


def test_model_constants(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    with counted("model constants JSON", tmp_path, proof) as tally:

        @profile(proof, full=9_000, quick=200)
        @given(file_of(CONSTANTS), seeds)
        def run(data: bytes, seed: int) -> None:
            for content in damaged(data, seed):
                file.write_bytes(content)
                tally.judge(lambda: read_model_constants(file).draft_ratio(True))

        run()


def test_sweeps(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "sweep.csv"
    with counted("sweep CSV", tmp_path, proof) as tally:

        @profile(proof, full=9_000, quick=200)
        @given(file_of(SWEEP, as_csv), seeds)
        def run(data: bytes, seed: int) -> None:
            def read() -> None:
                read_sweep(file)
                model_name(file)

            for content in damaged(data, seed):
                file.write_bytes(content)
                tally.judge(read)

        run()


def test_grids(proof: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(CALIBRATION))
    with counted("grid on stdin", tmp_path, proof) as tally:

        @profile(proof, full=5_000, quick=100)
        @given(file_of(GRID, as_csv), seeds, LENGTHS)
        def run(data: bytes, seed: int, lengths: str) -> None:
            for content in damaged(data, seed):
                monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
                monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
                tally.judge(lambda: decide(file, lengths))

        run()


def test_model_configs(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with counted("a model's config.json", tmp_path, proof) as tally:

        @profile(proof, full=8_000, quick=200)
        @given(st.one_of(file_of(MODEL), file_of(EXPERTS)), seeds, st.sampled_from((1, 2, 7, 10**9)))
        def run(data: bytes, seed: int, tensor_parallel: int) -> None:
            def read() -> None:
                shape = model_shape(read_json(file, "give one"), tensor_parallel)
                policy_size(shape)
                for form in FORMATS.values():
                    assert drafter_size(shape, form).total >= 0

            for content in damaged(data, seed):
                file.write_bytes(content)
                tally.judge(read)
                tally.judge(lambda: layer_shapes(read_json(file, "give one"), tensor_parallel))
                tally.judge(lambda: check_model_directory(tmp_path))

        (tmp_path / "model.safetensors").touch()
        (tmp_path / "tokenizer.json").touch()
        run()


def test_problems(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    with counted("problems JSONL", tmp_path, proof) as tally:

        @profile(proof, full=8_000, quick=150)
        @given(file_of(PROBLEMS, as_lines), seeds)
        def run(data: bytes, seed: int) -> None:
            for content in damaged(data, seed):
                file.write_bytes(content)
                tally.judge(lambda: read_problems(file))

        run()


def test_job_options(proof: Proof, tmp_path: Path) -> None:
    usual: dict[str, Any] = {
        "problems": None, "model": None, "prompt": None, "steps": 2, "prompts_per_step": 2, "group": 2,
        "max_new_tokens": 16, "temperature": 1.0, "lr": None, "dtype": "bfloat16", "seed": 0, "name": "run",
        "warm_start_steps": 1, "compare": False,
    }  # fmt: skip
    whole = st.one_of(st.integers(), st.sampled_from((0, 1, 2, 8, 10**6, 10**9, 10**30)))
    number = st.one_of(st.floats(), st.sampled_from((1.0, 0.5, 5.0, 1e-5)))
    path = words.map(lambda word: tmp_path / word.lstrip("/~") if ".." not in word else tmp_path)
    kinds = {
        **dict.fromkeys(("steps", "prompts_per_step", "group", "max_new_tokens", "seed", "warm_start_steps"), whole),
        **dict.fromkeys(("temperature", "lr"), number),
        **dict.fromkeys(("prompt", "dtype", "name"), words),
        **dict.fromkeys(("problems", "model"), path),
    }
    changes = st.lists(st.sampled_from(sorted(kinds)), max_size=3, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: kinds[key] for key in keys})
    )
    with counted("options of the job", tmp_path, proof) as tally:

        @profile(proof, full=6_000, quick=150)
        @given(changes, st.lists(st.one_of(words, scalars.map("gate.seed={}".format)), max_size=2))
        def run(changed: dict[str, Any], settings: list[str]) -> None:
            def read() -> None:
                options = Options(**(usual | changed), runs_dir=tmp_path / "runs", settings=settings_from(settings))
                checked_problems(options)
                assert options.run_dir.is_dir()

            tally.judge(read)

        run()
