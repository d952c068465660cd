"""Every supported vLLM has a file of its own, and all of them offer the same."""

import ast
from pathlib import Path

from nemo_rl_efficientrollout.engine import versions

COMPAT = Path(versions.__file__).parent / "compat"


def signatures(file: Path) -> dict[str, list[str]]:
    """Public functions of a module and the names of their arguments."""
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {f.name: [a.arg for a in f.args.args] for f in functions if not f.name.startswith("_")}


def test_every_supported_version_has_a_file_and_none_is_left_over() -> None:
    wanted = {f"vllm_{version.replace('.', '_')}.py" for version in versions.SUPPORTED}
    assert {file.name for file in COMPAT.glob("vllm_*.py")} == wanted


def test_all_versions_offer_the_same_functions() -> None:
    first, *others = [signatures(file) for file in sorted(COMPAT.glob("vllm_*.py"))]
    assert first
    for other in others:
        assert other == first


def test_one_place_chooses_and_hands_on_everything() -> None:
    branches = [node for node in ast.parse((COMPAT / "present.py").read_text()).body if isinstance(node, ast.If)]
    assert len(branches) == 1
    chosen = {
        node.module: {name.name for name in node.names}
        for node in ast.walk(branches[0])
        if isinstance(node, ast.ImportFrom)
    }
    assert chosen == {file.stem: set(signatures(file)) for file in COMPAT.glob("vllm_*.py")}
