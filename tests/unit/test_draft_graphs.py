"""Which graphs are captured, which one a batch takes, and which the target has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

from nemo_rl_efficientrollout.engine import draft_graphs
from nemo_rl_efficientrollout.engine.draft_graphs import DraftGraphs, row_sizes, verify_shapes
from nemo_rl_efficientrollout.engine.runner_v2 import candidates

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
