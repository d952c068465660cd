"""NeMo-RL's generation on a CPU. Skipped where NeMo-RL, Ray or vLLM is absent: `make test-nemo-rl` has them all."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.models import save_tiny_model
from tests.nemo_rl import cpu_shims

HERE = Path(__file__).parent
ENVIRONMENT = {
    cpu_shims.GUARD: "1",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # NeMo-RL sets it in its workers, too late for this process
    "NEMO_RL_PY_EXECUTABLES_SYSTEM": "1",  # actors run in this environment, not in ones that NeMo-RL builds
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="session")
def nemo_rl() -> Any:
    """NeMo-RL, with what stands in for a GPU in this process and in all that it starts."""
    module = pytest.importorskip("nemo_rl", reason="NeMo-RL is not on PYTHONPATH: run make test-nemo-rl")
    pytest.importorskip("ray", reason="Ray is not installed: run make test-nemo-rl")
    pytest.importorskip("vllm", reason="vLLM is not installed: run make test-nemo-rl")
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(HERE / "shims"), str(HERE.parents[1]), str(Path(module.__file__).parents[1]), *inherited]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in dict.fromkeys(paths) if path)
    os.environ |= ENVIRONMENT
    cpu_shims.install()
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The policy before training and after two updates, far apart."""
    folders = tmp_path_factory.mktemp("checkpoints")
    return [save_tiny_model(folders / f"step-{seed}", "qwen3", seed=seed) for seed in range(3)]
