"""What the doctor sees in other Python environments: real ones, with tiny packages where large ones would be."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from nemo_rl_efficientrollout import __version__
from nemo_rl_efficientrollout.doctor import environments, interpreter
from nemo_rl_efficientrollout.doctor.environments import (
    ASYNC_WORKER,
    SYNC_WORKER,
    TRAINER_WORKER,
    Environment,
    find_environments,
    trainer_environment,
)
from nemo_rl_efficientrollout.doctor.finding import Finding
from nemo_rl_efficientrollout.doctor.interpreter import check_up
from nemo_rl_efficientrollout.doctor.job import Job
from nemo_rl_efficientrollout.doctor.plugin import QUESTIONS, plugin_findings
from nemo_rl_efficientrollout.errors import UserError
from tests.stub_environments import new_environment, worker_environment

NOWHERE = Path("/no/such/folder")


@pytest.fixture(autouse=True)
def _only_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a checkout that this test runs from is not installed there
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)


def look_at(python: Path, needed: bool = True, driver: Mapping[str, str | None] | None = None) -> dict[str, Finding]:
    """Findings by kind."""
    environment = Environment("worker", python, needed, has_ray=driver is not None)
    found = plugin_findings(environment, check_up(python, QUESTIONS), driver or {})
    return {finding.name.partition(" ")[0]: finding for finding in found}


def test_a_good_environment_is_ok(tmp_path: Path) -> None:
    found = look_at(worker_environment(tmp_path))
    assert {finding.verdict for finding in found.values()} == {"ok"}, found
    assert f"{__version__}, as in the driver" in found["package"].found
    assert "vLLM 0.32.0" in found["environment"].found
    assert found["environment"].found.endswith("CUDA 13.0")


def test_vllm_plugins_that_excludes_ours_is_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = worker_environment(
        tmp_path, plugin="on = False\ndef register():\n    global on\n    on = True\ndef require_active(): assert on\n"
    )
    assert look_at(python)["plugin"].verdict == "ok"
    monkeypatch.setenv("VLLM_PLUGINS", "lora, efficientrollout")  # vLLM compares names as they are, spaces and all
    found = look_at(python)["plugin"]
    assert found.verdict == "fail"
    assert "keeps it out" in found.found
    monkeypatch.setenv("VLLM_PLUGINS", "lora,efficientrollout")
    assert look_at(python)["plugin"].verdict == "ok"


def test_another_version_of_this_package_is_no_go(tmp_path: Path) -> None:
    found = look_at(worker_environment(tmp_path, version="0.0.9"))["package"]
    assert (found.verdict, found.found) == ("fail", f"0.0.9, but the driver has {__version__}")
    assert str(tmp_path) in found.advice


def test_an_unsupported_vllm_is_no_go(tmp_path: Path) -> None:
    found = look_at(worker_environment(tmp_path, vllm="0.31.7"))
    assert found["environment"].verdict == "fail"
    assert "vLLM 0.31.7" in found["environment"].found
    assert "0.25.1, 0.32.0" in found["environment"].advice
    assert "vLLM 0.31.7 is not supported" in found["plugin"].found


@pytest.mark.parametrize(
    "plugin",
    [
        "raise OSError('libcudart.so.13: cannot open shared object file')\n",  # vLLM logs it and goes on
        "def register(): raise OSError('libcudart.so.13: cannot open shared object file')\n",
    ],
)
def test_a_plugin_that_raises_is_no_go_and_says_what(tmp_path: Path, plugin: str) -> None:
    found = look_at(worker_environment(tmp_path, plugin=plugin))["plugin"]
    assert found.verdict == "fail"
    assert "OSError: libcudart.so.13" in found.found


def test_code_without_its_entry_point_is_no_go(tmp_path: Path) -> None:
    found = look_at(worker_environment(tmp_path, visible=False))["plugin"]
    assert found.verdict == "fail"
    assert "entry point" in found.found


def test_an_environment_without_this_package_is_no_go_only_if_needed(tmp_path: Path) -> None:
    python = worker_environment(tmp_path, version=None)
    found = look_at(python)
    assert (found["package"].verdict, found["plugin"].verdict) == ("fail", "fail")
    assert f"with {python}" in found["package"].advice
    spare = look_at(python, needed=False)
    assert (spare["package"].verdict, spare["plugin"].verdict) == ("warn", "warn")


def test_code_in_the_working_directory_does_not_count_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(environments.__file__).parents[2])
    assert look_at(worker_environment(tmp_path, version=None))["package"].verdict == "fail"


def test_an_empty_environment_has_no_vllm(tmp_path: Path) -> None:
    found = look_at(new_environment(tmp_path))["environment"]
    assert found.verdict == "fail"
    assert "has no vLLM" in found.found


def test_ray_must_be_the_drivers(tmp_path: Path) -> None:
    found = look_at(worker_environment(tmp_path), driver={"ray": "2.60.0", "python": "3.11.7"})["ray"]
    assert found.verdict == "fail"
    assert "the driver has Ray 2.60.0 on Python 3.11" in found.found


def test_an_interpreter_that_dies_hangs_or_is_none_is_one_line(tmp_path: Path) -> None:
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho loading >&2\necho cannot allocate memory >&2\nexit 7\n")
    hanging = tmp_path / "hanging"
    hanging.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path / 'child'}\nwait\n")
    for script in (dying, hanging):
        script.chmod(0o755)
    replies = check_up(dying, {"versions": {"distributions": []}, "active": {}})
    assert {reply.error for reply in replies.values()} == {"its interpreter ended with code 7: cannot allocate memory"}
    started = time.monotonic()
    assert check_up(hanging, {"active": {}}, seconds=1.0)["active"].error == "no answer within 1 s"
    assert time.monotonic() - started < 10
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "exe"  # gone even of a zombie
    while child.exists():  # what it started ends with it, soon
        assert time.monotonic() - started < 30
        time.sleep(0.01)
    assert "cannot be run" in (check_up(NOWHERE / "python", {"active": {}})["active"].error or "")


def test_what_was_answered_before_an_interpreter_died_is_kept(tmp_path: Path) -> None:
    python = worker_environment(tmp_path, plugin="import os\nos._exit(9)\n")
    replies = check_up(python, QUESTIONS)
    assert replies["package"].answer["version"] == __version__
    assert replies["active"].error == "its interpreter ended with code 9"


class TestDiscovery:
    """Which environments are looked at."""

    @pytest.fixture
    def venvs(self, tmp_path: Path) -> Path:
        for name in (SYNC_WORKER, ASYNC_WORKER, TRAINER_WORKER, SYNC_WORKER.lower(), f"{SYNC_WORKER}2"):
            new_environment(tmp_path / name)
        return tmp_path

    @pytest.fixture(autouse=True)
    def _without_nemo_rl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environments, "nemo_rl_root", lambda: None)
        monkeypatch.setattr(environments, "installed_vllm", lambda: None)

    def find(self, job: Job, *more: Path, **variables: str) -> tuple[dict[str, bool], Finding]:
        found, finding = find_environments(job, more, variables, image_venvs=NOWHERE)
        return {environment.name: environment.needed for environment in found}, finding

    def test_nemo_rls_workers_by_their_exact_names(self, venvs: Path) -> None:
        found, finding = self.find(Job(), NEMO_RL_VENV_DIR=str(venvs))
        assert found == {"VllmGenerationWorker": True, "VllmAsyncGenerationWorker": True}
        assert finding.verdict == "ok"
        assert trainer_environment({"NEMO_RL_VENV_DIR": str(venvs)}) == venvs / TRAINER_WORKER / "bin" / "python"

    def test_only_the_worker_that_the_job_uses_is_needed(self, venvs: Path) -> None:
        found, _ = self.find(Job(async_engine=True), NEMO_RL_VENV_DIR=str(venvs))
        assert found == {"VllmGenerationWorker": False, "VllmAsyncGenerationWorker": True}

    def test_the_image_has_them_where_the_variable_is_not_set(self, venvs: Path) -> None:
        found, _ = find_environments(Job(), (), {}, image_venvs=venvs)
        assert [environment.python for environment in found] == [
            venvs / name / "bin" / "python" for name in (SYNC_WORKER, ASYNC_WORKER)
        ]

    def test_the_drivers_own_where_nemo_rl_is_told_so(self, venvs: Path) -> None:
        found, _ = self.find(Job(), NEMO_RL_PY_EXECUTABLES_SYSTEM="1", NEMO_RL_VENV_DIR=str(venvs))
        assert found == {"driver": True}

    def test_the_driver_counts_only_where_nothing_else_runs_vllm(
        self, venvs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "installed_vllm", lambda: "0.32.0")
        assert self.find(Job())[0] == {"driver": True}
        assert self.find(Job(), NEMO_RL_VENV_DIR=str(venvs))[0]["driver"] is False

    def test_no_environment_with_vllm_is_no_go(self) -> None:
        found, finding = self.find(Job())
        assert not found
        assert finding.verdict == "fail"
        assert "--worker-python" in finding.advice

    def test_a_worker_that_nemo_rl_has_yet_to_build_is_no_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        new_environment(tmp_path / "venvs" / SYNC_WORKER)
        monkeypatch.setattr(environments, "nemo_rl_root", lambda: tmp_path)
        assert self.find(Job(async_engine=False))[1].verdict == "ok"
        finding = self.find(Job(async_engine=True))[1]
        assert finding.verdict == "fail"
        assert "VllmAsyncGenerationWorker" in finding.found
        folder = environments.distribution("nemo-rl-efficientrollout").locate_file("")
        assert self.find(Job(async_engine=True), PYTHONPATH=f"/other{os.pathsep}{folder}")[1].verdict == "warn"

    def test_interpreters_that_are_named_must_be_there(self) -> None:
        assert self.find(Job(), Path(sys.executable))[0] == {sys.executable: True}
        with pytest.raises(UserError, match="--worker-python /no/such/folder is no interpreter"):
            self.find(Job(), NOWHERE)


def test_answers_do_not_depend_on_what_vllm_prints(tmp_path: Path) -> None:
    python = worker_environment(
        tmp_path, plugin="print('{', flush=True)\ndef register(): pass\ndef require_active(): pass\n"
    )
    assert interpreter.check_up(python, {"active": {}})["active"] == (True, None)
