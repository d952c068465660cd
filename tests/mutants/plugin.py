"""pytest plugin that breaks the package once: `python -m pytest -p tests.mutants.plugin --mutant NAME TEST`."""

import os

import pytest

from tests.mutants.faults import FAULTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", choices=FAULTS, help="run with this deliberate fault (tests/mutants/faults)")


def pytest_sessionstart(session: pytest.Session) -> None:
    """After tests/conftest.py, which must come before vLLM; before test modules, which take names from the package."""
    name = session.config.getoption("--mutant")
    if name is None:
        return
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.v2.interpreted import install

        install()
    FAULTS[name].apply()
