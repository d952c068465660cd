"""Arrows between rooms run one way (see docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nemo_rl_efficientrollout"
ENGINES = {"vllm", "ray", "nemo_rl"}
FORBIDDEN = {
    "gate": ENGINES | {"torch"},
    "gate/detector": ENGINES,
    "drafter": ENGINES,
    "simulate": ENGINES | {"torch"},
    "report": ENGINES | {"torch"},
    "compare": ENGINES | {"torch"},
    "plan": ENGINES | {"torch"},
    "doctor": ENGINES | {"torch"},
    "config.py": ENGINES,
}


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_imports_no_engine(room: str) -> None:
    path = PACKAGE / room
    files = [path] if path.is_file() else list(path.rglob("*.py"))
    assert files
    for file in files:
        if room == "gate" and "detector" in file.parts:
            continue  # probes kernels through torch, and is imported by nothing else of the room
        assert not imports(file) & FORBIDDEN[room], file


def test_the_gate_needs_no_torch() -> None:
    code = "import sys, nemo_rl_efficientrollout.gate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_planner_needs_no_torch() -> None:
    modules = ", ".join(f"nemo_rl_efficientrollout.plan.{file.stem}" for file in (PACKAGE / "plan").glob("[!_]*.py"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("package", "room"), [("vllm", "engine"), ("nemo_rl", "nemo_rl"), ("ray", "nemo_rl")])
def test_only_one_room_imports_it(package: str, room: str) -> None:
    offenders = [
        file.relative_to(PACKAGE)
        for file in PACKAGE.rglob("*.py")
        if package in imports(file) and file.relative_to(PACKAGE).parts[0] != room
    ]
    assert not offenders


def test_the_launcher_needs_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, nemo_rl_efficientrollout.nemo_rl.launcher, nemo_rl_efficientrollout.nemo_rl.patches;"
        "sys.exit(any(name in sys.modules for name in ('vllm', 'torch', 'nemo_rl', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
