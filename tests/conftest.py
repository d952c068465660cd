"""Settings that must be in place before vLLM is imported, and engines that tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proof import Proof

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# Tiny models: a second thread only waits for the first, and two test processes would fight over the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"


@pytest.fixture(scope="module", autouse=True)
def _engines_end_with_their_module() -> Iterator[None]:
    yield
    if "tests.engines" in sys.modules:
        sys.modules["tests.engines"].release_all()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proof", type=Path, metavar="FILE", help="run the full tier and write its tables here")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Proof(config.getoption("--proof")), "proof")


@pytest.fixture(scope="session")
def proof(pytestconfig: pytest.Config) -> Proof:
    """Where a test notes what it proves."""
    plugin = pytestconfig.pluginmanager.get_plugin("proof")
    assert isinstance(plugin, Proof)
    return plugin


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--proof") is None:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]
