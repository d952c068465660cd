"""CUDA graphs of whole drafts: one launch for γ tokens, where a launch per kernel would cost more than the kernels."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import graph_capture
from vllm.platforms import current_platform

from .compat.present_v2 import present

Draft = Callable[[], None]


def row_sizes(most: int) -> list[int]:
    """Batch sizes to capture up to `most`: 1, 2, 4, multiples of 8, and `most` itself."""
    return sorted({size for size in (1, 2, 4, *range(8, most + 1, 8), most) if size <= most})


class DraftGraphs:
    """Graphs by (rows, γ). A batch takes the smallest captured number of rows that holds it."""

    def __init__(self, most_rows: int, longest: int) -> None:
        self._sizes = row_sizes(most_rows)
        self._lengths = range(1, longest + 1)
        self._graphs: dict[tuple[int, int], Any] = {}

    def shapes(self) -> Iterator[tuple[int, int]]:
        """All (rows, γ), largest first, so that the smaller ones find room in the memory of the larger ones."""
        return ((rows, length) for rows in reversed(self._sizes) for length in reversed(self._lengths))

    def capture(self, new_draft: Callable[[int, int], Draft], vllm_config: VllmConfig, device: torch.device) -> None:
        """Capture every shape. `new_draft(rows, γ)` prepares, outside the graph, what the graph then repeats."""
        with recording(vllm_config, device) as record:
            for rows, length in self.shapes():
                new_draft(rows, length)()  # compiles what is compiled lazily
                self._graphs[rows, length] = record(new_draft(rows, length))

    def rows_for(self, batch: int, length: int) -> int | None:
        """Rows of the graph that drafts γ = `length` for `batch` requests; None if there is none."""
        size = next((size for size in self._sizes if size >= batch), 0)
        return size if (size, length) in self._graphs else None

    def replay(self, rows: int, length: int) -> None:
        """Launch."""
        self._graphs[rows, length].replay()


@contextmanager
def recording(vllm_config: VllmConfig, device: torch.device) -> Iterator[Callable[[Draft], Any]]:
    """While captures last: all-reduces register their buffers, and graphs share the target's pool of memory."""
    pool: Any = current_platform.get_global_graph_pool()

    def record(draft: Draft) -> Any:
        graph = torch.cuda.CUDAGraph()
        with present.capture_pool(pool, vllm_config) as own, torch.cuda.graph(graph, own):
            draft()
        return graph

    with graph_capture(device=device):
        yield record


def verify_shapes(
    capture_sizes: Iterable[int], most_requests: int, most_drafting: int, longest: int
) -> dict[int, list[int]]:
    """Numbers of requests to capture by tokens per request: all of vLLM's own for plain decoding, and for verifying
    every γ those that may draft."""
    plain = [size for size in sorted(capture_sizes) if size <= most_requests]
    drafting = row_sizes(min(most_drafting, most_requests))
    return {1: plain} | {length + 1: drafting for length in range(1, longest + 1)}
