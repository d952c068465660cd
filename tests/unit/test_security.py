"""What SECURITY.md promises of our own code: nothing is unpickled, evaluated, listened on or imported by a user's word.

Read from the source of what users run: the package, the examples, and the scripts of image and cluster.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.grpo_math.record import Record, check_writable
from examples.grpo_math.streams import library_output_in
from nemo_rl_efficientrollout import engine_kwargs, read_settings
from nemo_rl_efficientrollout.api import SCHEDULER
from nemo_rl_efficientrollout.compare import wandb_offline
from nemo_rl_efficientrollout.errors import SettingsError, UserError
from nemo_rl_efficientrollout.files import write_whole
from nemo_rl_efficientrollout.nemo_rl.launcher import script_named
from nemo_rl_efficientrollout.nemo_rl.translation import translated
from tests.fuzz.documents import NEMO_RL
from tests.fuzz.wild import deep

ROOT = Path(__file__).parents[2]
SOURCES = sorted(file for room in ("nemo_rl_efficientrollout", "examples") for file in (ROOT / room).rglob("*.py"))
SCRIPTS = sorted(
    [*(ROOT / "docker").glob("*.sh"), *(ROOT / "examples").rglob("*.sh"), *(ROOT / "examples").rglob("*.sbatch")]
)

MODULES = re.compile(
    r"(pickle|cPickle|_pickle|marshal|shelve|dill|cloudpickle|joblib|code|codeop|pty|socket|socketserver|http|xmlrpc"
    r"|asyncio|multiprocessing|uvicorn|fastapi|flask|aiohttp|tornado|zmq|ctypes|telnetlib|ftplib|jsonpickle)(\.|$)"
)
"""Not imported: what turns bytes into objects or code, and what listens."""
CALLS = re.compile(
    r"(eval|exec|compile|__import__|globals|input)$|os\.(system|popen|exec\w*|spawn\w*|fork)$|(.*\.)?(popen2|mktemp)$"
    r"|yaml\.(load|load_all|unsafe_load|full_load|Loader|UnsafeLoader)$|(.*\.)?(read_pickle|create_server|start_server)$"
    r"|(.*\.)?(listen|bind|serve_forever|getstatusoutput|getoutput|run_module)$"
)
"""Not called. `compile` is the builtin: `re.compile` and `torch.compile` have another name."""
ARGUMENTS = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "weights_only": True}
"""Arguments that may have this value alone, wherever they are given."""
EXCEPTIONS = {
    ("examples/grpo_math/slurm/run_on_worker.py", "import socket"): "the host's name; nothing is opened",
    (
        "nemo_rl_efficientrollout/engine/checkup.py",
        "importlib.import_module(module)",
    ): "from the doctor's own questions",
    ("nemo_rl_efficientrollout/nemo_rl/patches.py", "importlib.import_module(patch.module)"): "from the list PATCHES",
    (
        "nemo_rl_efficientrollout/nemo_rl/launcher.py",
        "runpy.run_path(str(file))",
    ): "NeMo-RL's script, from the list SCRIPTS",
}
"""One by one, with the reason."""
PROCESSES = {
    "nemo_rl_efficientrollout/compare/wandb_offline.py": "W&B's inspector",
    "nemo_rl_efficientrollout/doctor/interpreter.py": "other Python environments",
    "nemo_rl_efficientrollout/doctor/gpu.py": "nvidia-smi",
    "examples/grpo_math/slurm/run_on_worker.py": "what the job script names, on another node",
}
"""Files that start processes, always from a list of words."""


def offences(source: str) -> Iterator[str]:
    """What a module does that it must not, exceptions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if isinstance(node, ast.Import) or node.level == 0:
                yield from (f"import {name}" for name in names if MODULES.match(name))
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if CALLS.match(name):
        yield name
    for keyword in call.keywords:
        wanted = ARGUMENTS.get(keyword.arg or "")
        if wanted is not None and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is wanted):
            yield f"{name}({ast.unparse(keyword)})"
    given = {keyword.arg for keyword in call.keywords}
    if name.endswith("torch.load") and "weights_only" not in given:
        yield f"{name} without weights_only=True"
    by_name = name.endswith(("import_module", "run_path"))
    if by_name and not (call.args and isinstance(call.args[0], ast.Constant)):
        yield f"{name}({ast.unparse(call.args[0])})" if call.args else name


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_code_from_data_and_no_listener(file: Path) -> None:
    assert [what for what in offences(file.read_text()) if (name_of(file), what) not in EXCEPTIONS] == []


def test_exceptions_are_still_needed() -> None:
    found = {(name_of(file), what) for file in SOURCES for what in offences(file.read_text())}
    assert found == EXCEPTIONS.keys()


def test_processes_are_started_from_lists_in_known_places() -> None:
    starting = {
        name_of(file)
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess.")
        if not isinstance(node.args[0], ast.Constant | ast.JoinedStr)
    }
    assert starting == PROCESSES.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import http.server", "from multiprocessing.connection import Listener",
        "import asyncio", "eval(x)", "exec(x)", "compile(x, '', 'exec')", "__import__(x)", "os.system(x)", "os.popen(x)",
        "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)", "yaml.load(x)", "torch.load(x)",
        "torch.load(x, weights_only=False)", "np.load(x, allow_pickle=True)", "importlib.import_module(x)",
        "import_module(f'a.{x}')", "runpy.run_path(x)", "s.listen()", "s.bind(x)", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_each_offence_is_found(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize("file", SCRIPTS, ids=name_of)
def test_scripts_evaluate_nothing(file: Path) -> None:
    """Nothing is fetched and run, no text becomes a command, no service is started but Ray's and Slurm's."""
    text = file.read_text()
    assert not re.search(r"\beval\b|\b(curl|wget)\b.*\|\s*(ba)?sh|\bbash -c\b.*\$\{?[A-Z]|\bnc -l|http\.server", text)


# What names code is ours.

WORKER = "posix.system"


@pytest.mark.parametrize(
    "settings",
    [
        {"scheduler_cls": WORKER},
        {"worker_cls": WORKER},
        {"drafter": {"format": WORKER}},
        {"gate": {"mode": WORKER}},
        {"gate": {"policy": WORKER}},
        {"refit": {"quantize_on": WORKER}},
    ],
)
def test_no_setting_becomes_an_import_path(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        engine_kwargs("some/model", settings)


def test_texts_of_users_stay_where_they_were_put() -> None:
    """A calibration file and a model may have any name; neither reaches a place from which vLLM imports."""
    arguments = engine_kwargs(WORKER, {"gate": {"calibration": WORKER}})
    assert arguments["scheduler_cls"] == SCHEDULER
    speculation = arguments["speculative_config"]
    assert speculation.pop("model") == WORKER
    assert arguments["additional_config"]["efficientrollout"]["gate"].pop("calibration") == WORKER
    assert WORKER not in json.dumps(arguments)


@pytest.mark.parametrize("key", ["worker_cls", "scheduler_cls"])
def test_foreign_classes_in_nemo_rls_configuration_are_refused(key: str) -> None:
    config = json.loads(json.dumps(NEMO_RL))
    assert translated(config)["policy"]["generation"]["vllm_kwargs"]["scheduler_cls"] == SCHEDULER
    config["policy"]["generation"]["vllm_kwargs"][key] = WORKER
    with pytest.raises(SettingsError, match=key):
        translated(config)


@pytest.mark.parametrize("job", ["../../x", "/bin/sh", "run_grpo.py", WORKER, ""])
def test_jobs_are_those_of_the_list(job: str) -> None:
    with pytest.raises(UserError, match="unknown job"):
        script_named(job)


def test_wandbs_inspector_is_not_looked_for_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs lie in folders that others wrote."""
    (tmp_path / "wandb.py").write_text("print('planted')")
    (tmp_path / "-x.wandb").touch()
    monkeypatch.chdir(tmp_path)
    assert not wandb_offline.read(Path("-x.wandb")).series


# What is written goes below the folder that the user named.


def test_a_run_that_is_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "run").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link"):
        check_writable(tmp_path / "run")
    assert not list(elsewhere.iterdir())


def test_links_in_a_runs_folder_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("report.json", "report.html", "steps.jsonl", "problems.jsonl", "job.log"):
        (run / name).symlink_to(kept)
    check_writable(run)
    with library_output_in(run / "job.log"):
        record = Record(run, name="run", settings={}, model={}, machine={})
        record.write_json()
        record.write_html()
        (run / "problems.jsonl").write_text("x")
    assert kept.read_text() == "kept"
    assert not any(path.is_symlink() for path in run.iterdir())


def test_a_file_is_replaced_and_its_link_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "new").symlink_to(tmp_path / "kept")
    write_whole(tmp_path / "new", b"new")
    assert (tmp_path / "kept").read_text() == "kept"
    assert (tmp_path / "new").read_text() == "new"


def test_settings_that_are_nested_without_end_are_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"gate": {"seed": deep(sys.getrecursionlimit() * 3)}})
    assert len(str(caught.value)) < 500
