"""Runs are read alike from whatever recorded them; what cannot be read is one line and exit code 2."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from examples.grpo_math import wandb_log
from examples.grpo_math.record import Record, Step
from nemo_rl_efficientrollout.compare import read_run, wandb_offline
from nemo_rl_efficientrollout.compare import wandb_online as online
from nemo_rl_efficientrollout.compare.metrics import GENERATION, REWARD
from nemo_rl_efficientrollout.errors import UserError
from tests.runs import ACCELERATED, CONFIG, Rows, history, nested, write_tensorboard, write_wandb
from tests.unit.test_cli import run as command

PLAIN, FAST = history(20), history(20, speed=0.5, speculating=True, seed=1)
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed: make setup installs it"
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """W&B runs as NeMo-RL places them: flat and nested, and one without a step."""
    folder = tmp_path_factory.mktemp("recorded")
    write_wandb(folder / "plain" / "wandb", PLAIN, CONFIG)
    write_wandb(folder / "fast", [(step, nested(row)) for step, row in FAST], ACCELERATED)
    write_wandb(folder / "unstarted", [], CONFIG)
    return folder


def rows_of(series: dict[str, dict[int, float]]) -> Rows:
    steps = sorted({step for values in series.values() for step in values})
    return [(step, {name: v[step] for name, v in series.items() if step in v}) for step in steps if step]


def file_of(folder: Path) -> Path:
    (file,) = [file for file in folder.rglob("*.wandb") if not file.parent.is_symlink()]
    return file


def copy(recorded: Path, folder: Path, change: Callable[[bytearray], bytes | bytearray]) -> Path:
    """A folder with a changed copy of the plain run's file."""
    target = folder / "offline-run-copy" / "run-copy.wandb"
    target.parent.mkdir()
    target.write_bytes(change(bytearray(file_of(recorded / "plain").read_bytes())))
    return target


def own_metrics(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


@pytest.mark.parametrize("place", ["plain", "plain/wandb", "plain/wandb/wandb"])
def test_offline_wandb_run_is_found_and_read(recorded: Path, place: str):
    found = read_run(str(recorded / place))
    assert [(step, own_metrics(row)) for step, row in rows_of(found.series)] == PLAIN
    assert found.series["timing/setup/total"] == {0: 3.0}
    assert found.config["grpo.num_generations_per_prompt"] == 8
    assert (found.name, found.kind) == ("wandb", "offline W&B run")


def test_nested_keys_are_the_same_metrics(recorded: Path):
    found = read_run(str(recorded / "fast"))
    assert [(step, own_metrics(row)) for step, row in rows_of(found.series)] == FAST


def test_what_is_no_number_is_left_out(tmp_path: Path):
    rows = [(1, {"train/reward": 0.5, "nan": float("nan"), "text": "x", "switch": True, "list": [1, 2]})]
    found = read_run(str(write_wandb(tmp_path / "odd", rows, CONFIG)))
    assert own_metrics(rows_of(found.series)[0][1]) == {"train/reward": 0.5}


def test_a_killed_run_lacks_its_last_steps_only(recorded: Path, tmp_path: Path):
    found = read_run(str(copy(recorded, tmp_path, lambda data: data[: len(data) * 2 // 3])))
    steps = list(found.series[REWARD])
    assert 5 < len(steps) < 20
    assert steps == list(range(1, len(steps) + 1))


def test_corrupt_files_are_named(recorded: Path, tmp_path: Path):
    def flip(data: bytearray) -> bytearray:
        data[len(data) // 2] ^= 0xFF
        return data

    file = copy(recorded, tmp_path, flip)
    with pytest.raises(UserError, match=r"run-copy\.wandb is corrupt"):
        read_run(str(tmp_path))
    file.write_bytes(b"no transaction log\n" * 40)
    with pytest.raises(UserError, match=r"run-copy\.wandb cannot be read"):
        read_run(str(file))


def test_several_runs_are_told_apart_by_the_user(recorded: Path):
    with pytest.raises(UserError, match="holds 3 runs; give one of"):
        read_run(str(recorded))


def test_reader_that_is_not_installed_is_named(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        read_run(str(tmp_path))
    with pytest.raises(UserError, match="pip install 'wandb"):
        read_run(str(recorded / "plain"))
    with pytest.raises(UserError, match="pip install 'wandb"):
        read_run("entity/project/abc123")


class FakeApi:
    """What `wandb.Api` answers for one run, of which `history()` would give a sample."""

    def __init__(self, timeout: int):
        pass

    def run(self, path: str) -> Any:
        if path != "team/grpo/abc123":
            raise ValueError(f"Could not find run <Run {path} (not found)>\nand a second line")
        rows = [{"_step": step, "_runtime": 1.0, **row} for step, row in PLAIN]
        return SimpleNamespace(name="plain", id="abc123", config=CONFIG, scan_history=lambda: iter(rows))


def test_run_at_wandb_is_read_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wandb, "Api", FakeApi)
    found = read_run("team/grpo/abc123")
    assert [(step, own_metrics(row)) for step, row in rows_of(found.series)] == PLAIN
    assert (found.name, found.source) == ("plain", "team/grpo/abc123")
    with pytest.raises(UserError, match="Could not find run") as caught:
        read_run("team/grpo/other")
    assert "\n" not in str(caught.value)


def test_no_key_and_no_network_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="WANDB_API_KEY") as caught:
        read_run("team/grpo/abc123")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(online, "TIMEOUT", 1)
    with pytest.raises(UserError, match="check the name, the network") as caught:
        read_run("team/grpo/abc123")
    assert "\n" not in str(caught.value)


@needs_tensorboard
def test_tensorboard_events_are_the_same_run(tmp_path: Path):
    write_tensorboard(tmp_path / "exp_001" / "tensorboard", PLAIN, CONFIG)
    found = read_run(str(tmp_path / "exp_001"))
    assert [step for step, _ in rows_of(found.series)] == [step for step, _ in PLAIN]
    for (_, row), (_, logged) in zip(rows_of(found.series), PLAIN, strict=True):
        assert row == pytest.approx(logged, rel=1e-6)  # TensorBoard keeps 32 bits
    assert found.config["grpo.num_prompts_per_step"] == 4
    assert found.config["policy.model_name"] == "tiny"
    assert found.name == "exp_001"


@needs_tensorboard
def test_later_event_files_win_and_killed_ones_end_early(tmp_path: Path):
    folder = write_tensorboard(tmp_path / "tensorboard", PLAIN, {})
    (first,) = folder.glob("*tfevents*")
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    steps = list(read_run(str(folder)).series[REWARD])
    assert 5 < len(steps) < 20
    second = folder / "events.out.tfevents.9999999999.resumed"
    second.write_bytes(whole)
    assert list(read_run(str(folder)).series[REWARD]) == list(range(1, 21))


@needs_tensorboard
@pytest.mark.parametrize("at", [0, 0.5])
def test_corrupt_event_file_is_named(tmp_path: Path, at: float):
    (file,) = write_tensorboard(tmp_path / "tensorboard", PLAIN, {}).glob("*tfevents*")
    data = bytearray(file.read_bytes())
    data[int(at * len(data)) + 5] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"tfevents.* is corrupt from byte"):
        read_run(str(tmp_path))


@needs_tensorboard
def test_both_recorders_of_one_run_are_one_run_and_others_are_two(recorded: Path, tmp_path: Path):
    shutil.copytree(recorded / "fast", tmp_path / "wandb", symlinks=True)
    write_tensorboard(tmp_path / "tensorboard", PLAIN[:2], CONFIG)
    assert read_run(str(tmp_path)).kind == "offline W&B run"
    assert read_run(str(tmp_path / "tensorboard")).kind == "TensorBoard events"
    (tmp_path / "tensorboard").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds 2 runs; give one of"):
        read_run(str(tmp_path))


def step(number: int) -> Step:
    measured: dict[str, Any] = {field: 10.0 * place + number for place, field in enumerate(Step.__dataclass_fields__)}
    lengths = {"mean": 30.0, "median": 20.0, "max": 90}
    given = {"step": number, "response_tokens": lengths, "acceptance_rate": None, "timeline": {}}
    given |= {"metrics": {"efficientrollout/measured_over_predicted": 1.1, "refit/requantize_s": 0.5}}
    return Step(**measured | given)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a run of the job, with the W&B view of its steps."""
    record = Record(tmp_path / "demo", name="demo", settings={"prompts_per_step": 8, "group": 4}, model={}, machine={})
    for number in (1, 2, 3):
        record.add(step(number))
    write_wandb(tmp_path / "demo" / "wandb", [], CONFIG)
    return tmp_path / "demo"


def test_the_jobs_own_record_has_the_names_that_it_gives_wandb(job: Path):
    found = read_run(str(job))
    view = wandb_log.metrics(step(2))
    shared = {name: series[2] for name, series in found.series.items() if name in view}
    assert shared == {name: view[name] for name in shared}
    assert {GENERATION, REWARD, "train/vllm/spec_acceptance_length", "refit/requantize_s"} <= shared.keys()
    assert found.series.keys() - view.keys() == {"train/max_gen_tokens_per_sample"}
    assert "train/vllm/spec_acceptance_rate" not in found.series  # undefined where nothing was drafted
    assert found.config == {"prompts_per_step": 8, "group": 4}


def test_a_half_written_last_step_is_no_harm_and_any_other_is(job: Path):
    file = job / "steps.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"step": 4, "rew')
    assert list(read_run(str(job)).series[REWARD]) == [1, 2, 3]
    file.write_text("{\n" + whole)
    with pytest.raises(UserError, match=r"steps\.jsonl:1 is not valid JSON"):
        read_run(str(job))
    file.write_text(json.dumps({"reward": 1}) + "\n")
    with pytest.raises(UserError, match=r"steps\.jsonl:1 has no 'step'"):
        read_run(str(file))


def test_the_command_compares_and_prints_json(recorded: Path):
    done = command("compare", str(recorded / "plain"), str(recorded / "fast"), "--json", "--skip", "2")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["metrics"][GENERATION]["estimate"] == pytest.approx(0.5, rel=0.1)
    assert content["common_steps"]["first"] == 3
    assert list(content["settings"]["expected"]) == ["policy.generation.efficientrollout.strict"]


def test_the_command_prints_tables_or_nothing(recorded: Path, tmp_path: Path):
    sources = str(recorded / "plain"), str(recorded / "fast")
    done = command("compare", *sources)
    assert done.returncode == 0, done.stderr
    for part in (GENERATION, "× 0.", "Missing in A: ", "left out as warm-up"):
        assert part in done.stdout.replace("\u00a0", " ")
    page = tmp_path / "page.html"
    quiet = command("compare", *sources, "--quiet", "--out", str(page))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert page.stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/no/such/run", "plain"], "/no/such/run: no such folder"),
        (["plain", "unstarted"], "has no history of training"),
        (["plain", "."], "holds 3 runs"),
        (["plain", "empty"], "holds no run"),
        (["plain", "fast", "--skip", "30"], "no common steps"),
        (["plain", "fast", "--skip", "-1"], "--skip"),
        (["plain", "fast", "--out", "/no/such/folder/page.html"], "its folder does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(recorded: Path, arguments: list[str], expected: str):
    (recorded / "empty").mkdir(exist_ok=True)
    names = {"plain", "fast", "unstarted", "empty", "."}
    done = command("compare", *(str(recorded / a) if a in names else a for a in arguments))
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "{}",
        '{"type": "history"}',
        '{"type": "history", "history": {"item": 3}}',
        '{"type": "history", "history": {"item": {"_step": "x"}}}',
        '{"type": "history", "history": {"item": {"_step": NaN}}}',
        "[" * 10_000,
    ],
    ids=range(7),
)
def test_rows_that_are_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str):
    file = tmp_path / "run.wandb"
    file.touch()
    monkeypatch.setattr(wandb_offline, "_inspect", lambda file, *options: line)
    with pytest.raises(UserError, match=r"run\.wandb .*; it needs wandb 0\.31 or newer and a whole file"):
        read_run(str(file))


def test_an_event_file_with_a_record_that_is_none_is_named(tmp_path: Path):
    from tensorboard.summary.writer.record_writer import RecordWriter  # pyright: ignore

    with (tmp_path / "events.out.tfevents.1").open("wb") as stream:
        RecordWriter(stream).write(b"\x00")
    with pytest.raises(UserError, match="holds a record that is no event"):
        read_run(str(tmp_path))
