"""Which graphs are captured, which one a batch takes, and which the target has."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

from nemo_rl_efficientrollout.engine import draft_graphs
from nemo_rl_efficientrollout.engine.draft_graphs import DraftGraphs, row_sizes, verify_shapes
from nemo_rl_efficientrollout.engine.runner_v2 import VariableLengthGraphs, candidates

CONFIG: Any = object()
FULL, PIECEWISE = CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE


class Recording:
    """Stands for CUDA: remembers what was run, and replays by running it again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[tuple[int, int]] = []
        self.captured: list[tuple[int, int]] = []
        monkeypatch.setattr(draft_graphs, "recording", self._recording)

    @contextmanager
    def _recording(self, vllm_config: object, device: torch.device) -> Iterator[draft_graphs.Draft]:
        yield self._record  # type: ignore[misc]

    def _record(self, draft: draft_graphs.Draft) -> object:
        draft()
        self.captured.append(self.runs[-1])
        return type("Graph", (), {"replay": staticmethod(draft)})

    def new_draft(self, rows: int, length: int) -> draft_graphs.Draft:
        return lambda: self.runs.append((rows, length))


def test_every_shape_runs_once_before_it_is_captured_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Recording(monkeypatch)
    DraftGraphs(4, 2).capture(cuda.new_draft, CONFIG, torch.device("cpu"))
    assert cuda.captured == [(4, 2), (4, 1), (2, 2), (2, 1), (1, 2), (1, 1)]
    assert cuda.runs == [shape for shape in cuda.captured for _ in range(2)]


def test_a_batch_takes_the_smallest_graph_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Recording(monkeypatch)
    graphs = DraftGraphs(20, 3)
    assert graphs.rows_for(1, 1) is None  # before capture
    graphs.capture(cuda.new_draft, CONFIG, torch.device("cpu"))
    assert [graphs.rows_for(batch, 3) for batch in (1, 3, 4, 5, 9, 16, 17, 20)] == [1, 4, 4, 8, 16, 16, 20, 20]
    assert graphs.rows_for(21, 3) is None
    assert graphs.rows_for(4, 4) is None
    graphs.replay(8, 2)
    assert cuda.runs[-1] == (8, 2)


@pytest.mark.parametrize("most", [1, 2, 3, 8, 13, 64])
def test_row_sizes_end_at_the_largest_batch(most: int) -> None:
    sizes = row_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == most


def test_the_target_keeps_vllm_s_own_sizes_for_plain_decoding() -> None:
    shapes = verify_shapes([1, 2, 4, 8, 16, 24, 32, 256], most_requests=32, most_drafting=8, longest=3)
    assert shapes == {1: [1, 2, 4, 8, 16, 24, 32], 2: [1, 2, 4, 8], 3: [1, 2, 4, 8], 4: [1, 2, 4, 8]}


def test_a_step_finds_the_graph_of_its_own_length() -> None:
    plain = [BatchExecutionDescriptor(FULL, size, size, uniform_token_count=1) for size in (1, 2, 4)]
    verify = [BatchExecutionDescriptor(FULL, 3 * size, size, uniform_token_count=3) for size in (1, 2)]
    mixed = [BatchExecutionDescriptor(PIECEWISE, size, None) for size in (4, 8)]
    found = candidates([*plain, *verify], mixed)
    assert found[2, 0] == [plain[1], verify[0], mixed[0]]
    assert found[4, 0] == [plain[2], verify[1], mixed[0]]
    assert found[6, 0] == [verify[1], mixed[1]]
    assert found[8, 0] == [mixed[1]]
    assert (9, 0) not in found


def target_graphs(mode: CUDAGraphMode) -> Any:
    """The target's graphs as an engine for up to 8 requests has them, with drafts of up to 2 for up to 4 of them."""
    new: Any = object.__new__(VariableLengthGraphs)
    settings = {"draft_length": {"max": 2, "max_requests": 4}}
    new.vllm_config = SimpleNamespace(
        additional_config={"efficientrollout": settings},
        speculative_config=None,
        cache_config=SimpleNamespace(use_kda_recoverssm=False),
    )
    sizes = [1, 2, 4, 8, 16]
    new.compilation_config = SimpleNamespace(cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=16)
    new.cudagraph_mode, new.max_num_reqs, new.decode_query_len = mode, 8, 3
    new.lora_capture_cases, new._lora_dispatch_map, new._max_lora_case = [0], {}, 0
    new.varlen_decode, new.ubatch_runner, new._graphs_captured = False, None, True
    new._candidates, new._capture_descs = {}, {}
    new._init_candidates()
    return new


@pytest.mark.parametrize(
    ("requests", "tokens", "padded"), [(1, 1, 1), (3, 1, 4), (8, 1, 8), (1, 2, 1), (3, 2, 4), (2, 3, 2), (4, 3, 4)]
)
def test_plain_decoding_and_every_draft_length_have_full_graphs(requests: int, tokens: int, padded: int) -> None:
    graphs = target_graphs(CUDAGraphMode.FULL_AND_PIECEWISE)
    shape = graphs.dispatch(requests, requests * tokens, tokens, 0)
    assert (shape.cg_mode, shape.num_reqs, shape.num_tokens) == (FULL, padded, padded * tokens)
    assert shape in graphs._capture_descs[FULL]


def test_prompts_and_large_batches_take_vllm_s_own_shapes() -> None:
    graphs = target_graphs(CUDAGraphMode.FULL_AND_PIECEWISE)
    assert graphs.dispatch(2, 7, None, 0).cg_mode == PIECEWISE
    assert graphs.dispatch(5, 15, 3, 0).cg_mode == PIECEWISE
    largest_first = [shape.num_tokens for shape in graphs._capture_descs[FULL]]
    assert largest_first == sorted(largest_first, reverse=True)


def test_without_graphs_there_are_none() -> None:
    assert target_graphs(CUDAGraphMode.NONE)._capture_descs == {}
