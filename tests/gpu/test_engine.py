"""The engine on a GPU: default runner, full CUDA graphs, asynchronous scheduling. Skips without one.

`python -m pytest tests/gpu/test_engine.py`
"""

from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from vllm import LLM

from nemo_rl_efficientrollout.engine import self_test
from nemo_rl_efficientrollout.engine.draft_graphs import row_sizes
from nemo_rl_efficientrollout.engine.scheduler import AsyncDraftLengthScheduler
from nemo_rl_efficientrollout.engine.speculator_v2 import TwinSpeculator
from tests.engines import (
    core_of,
    drafted_and_accepted,
    generate,
    prompts,
    runner_of,
    set_gate,
    start,
    stats,
)
from tests.models import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.engine
BATCH = prompts(12, VOCABULARY)
NEW_TOKENS, MAX = 64, 4
GRAPHS: dict[str, Any] = {"enforce_eager": False, "max_num_seqs": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), hidden=256)


def start_twin(model: Path, name: str, **vllm: Any) -> LLM:
    settings = {"drafter": {"format": name}, "draft_length": {"max": MAX}, "strict": True}
    return start(model, settings, **(GRAPHS | vllm))


def test_runs_as_stock_vllm_does(model: Path) -> None:
    stock, twin = start(model, **GRAPHS), start_twin(model, "bf16")
    ours, theirs = twin.llm_engine.vllm_config, stock.llm_engine.vllm_config
    assert ours.use_v2_model_runner == theirs.use_v2_model_runner
    assert ours.compilation_config.cudagraph_mode == theirs.compilation_config.cudagraph_mode
    assert ours.scheduler_config.async_scheduling == theirs.scheduler_config.async_scheduling
    assert isinstance(core_of(twin).scheduler, AsyncDraftLengthScheduler)


@pytest.mark.parametrize("gate", [*({"mode": "fixed", "draft_length": n} for n in (1, 2, MAX)), {"mode": "random"}])
def test_unquantized_twin_in_float32_gives_plain_decoding_s_tokens(model: Path, gate: dict[str, Any]) -> None:
    expected = generate(start(model, **GRAPHS), BATCH, NEW_TOKENS)
    llm = start_twin(model, "bf16")
    set_gate(llm, **gate)
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted == accepted > 0


def test_every_draft_length_has_its_graphs(model: Path) -> None:
    speculator = runner_of(start_twin(model, "fp8", dtype="bfloat16")).speculator
    assert isinstance(speculator, TwinSpeculator)
    assert speculator._graphs is not None
    captured = set(speculator._graphs._graphs)
    assert captured == {(rows, length) for rows in row_sizes(16) for length in range(1, MAX + 1)}
    lengths = {shape.uniform_token_count for shape in runner_of(start_twin(model, "fp8")).cudagraph_manager.graphs}
    assert set(range(1, MAX + 2)) <= lengths


@pytest.mark.parametrize("name", ["int4", "int8", "fp8", "fp8_block"])
def test_graphs_draft_what_the_host_would(model: Path, name: str) -> None:
    """The same requests, seeds and weights with the drafts launched as graphs, and one kernel at a time."""
    llm = start_twin(model, name, dtype="bfloat16")
    set_gate(llm, mode="fixed", draft_length=MAX)
    speculator = runner_of(llm).speculator
    counts = []
    for use_graphs in (True, False):
        speculator._use_graphs = use_graphs
        core_of(llm).reset_prefix_cache()
        before = stats(llm)
        generate(llm, BATCH, NEW_TOKENS)
        counts.append(drafted_and_accepted(llm, before))
    assert counts[0][1] == pytest.approx(counts[1][1], rel=0.02)
    assert counts[0][1] > 0.3 * counts[0][0]


def test_start_up_test_accepts_nearly_all(model: Path) -> None:
    drafted, accepted = self_test.measure(core_of(start_twin(model, "int4", dtype="bfloat16")))
    assert accepted >= 0.9 * drafted > 0
