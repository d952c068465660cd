"""Every supported vLLM has a file of its own, and all of them offer the same."""

import ast
from pathlib import Path

import pytest

from nemo_rl_efficientrollout.engine import versions

COMPAT = Path(versions.__file__).parent / "compat"


def signatures(file: Path) -> dict[str, list[str]]:
    """Public functions of a module and the names of their arguments."""
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {f.name: [a.arg for a in f.args.args] for f in functions if not f.name.startswith("_")}


CHOOSERS = {"vllm": "present.py", "v2_vllm": "present_v2.py"}
families = pytest.mark.parametrize("family", CHOOSERS)


@families
def test_every_supported_version_has_a_file_and_none_is_left_over(family: str) -> None:
    wanted = {f"{family}_{version.replace('.', '_')}.py" for version in versions.SUPPORTED}
    assert {file.name for file in COMPAT.glob(f"{family}_*.py")} == wanted


@families
def test_all_versions_offer_the_same_functions(family: str) -> None:
    first, *others = [signatures(file) for file in sorted(COMPAT.glob(f"{family}_*.py"))]
    assert first
    for other in others:
        assert other == first


@families
def test_one_place_chooses(family: str) -> None:
    branches = [node for node in ast.parse((COMPAT / CHOOSERS[family]).read_text()).body if isinstance(node, ast.If)]
    assert len(branches) == 1
    imports = [node for node in ast.walk(branches[0]) if isinstance(node, ast.ImportFrom)]
    chosen = {(name.name, name.asname) for node in imports for name in node.names}
    assert chosen == {(file.stem, "present") for file in COMPAT.glob(f"{family}_*.py")}
