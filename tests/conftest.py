"""Settings that must be in place before vLLM is imported, and engines that tests share."""

import os
import sys
from collections.abc import Iterator

import pytest

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
