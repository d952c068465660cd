"""The V2 speculator against a fake runner that records what it is asked, and without waiting."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.config.compilation import CUDAGraphMode

from nemo_rl_efficientrollout.engine import speculator_v2
from nemo_rl_efficientrollout.engine.draft_logits import FREE, DraftLogits
from nemo_rl_efficientrollout.engine.speculator_v2 import TwinSpeculator

REQUESTS, LONGEST, LIMIT, VOCABULARY = 8, 3, 64, 11


class Runner:
    """What the speculator sees of vLLM, with a model whose next token is this one plus one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self.metadata_built = self.refreshed = 0
        monkeypatch.setattr(speculator_v2, "set_forward_context", self._context)
        monkeypatch.setattr(speculator_v2, "build_attn_metadata", self._build)
        monkeypatch.setattr(speculator_v2, "build_slot_mappings_by_layer", lambda slots, config: {"layer": slots})
        monkeypatch.setattr(speculator_v2.present, "refreshed", self._refresh)
        monkeypatch.setattr(speculator_v2.present, "draw_drafts", self._draw)
        self.speculator = self._new()

    def _new(self) -> Any:
        new: Any = object.__new__(TwinSpeculator)
        new.vllm_config = new.kv_cache_config = None
        new.device = torch.device("cpu")
        new.max_num_reqs, new.num_speculative_steps, new.max_model_len = REQUESTS, LONGEST, LIMIT
        new.state = SimpleNamespace(twin=object(), ready=True)
        new.model = self
        new.attn_groups = []
        new.block_tables = self
        new.input_block_tables = self.input_block_tables = [torch.arange(REQUESTS)[:, None]]
        new.input_buffers = SimpleNamespace(
            input_ids=torch.zeros(64, dtype=torch.int32),
            positions=torch.zeros(64, dtype=torch.int64),
            seq_lens=torch.full((REQUESTS,), 99, dtype=torch.int32),
            query_start_loc=torch.zeros(REQUESTS + 1, dtype=torch.int32),
        )
        new.idx_mapping = torch.zeros(REQUESTS, dtype=torch.int64)
        new.temperature = torch.zeros(REQUESTS)
        new.seeds = torch.zeros(REQUESTS, dtype=torch.int64)
        new.draft_tokens = torch.zeros(REQUESTS, LONGEST, dtype=torch.int64)
        new.draft_logits = DraftLogits.allocate(4, REQUESTS, LONGEST, VOCABULARY, torch.float32, new.device)
        new._rows = 4
        new._arange = torch.arange(REQUESTS + 1, dtype=torch.int32)
        new._index = torch.full((REQUESTS,), 5, dtype=torch.int64)
        new._column = torch.zeros((), dtype=torch.int64)
        new._graphs, new._use_graphs = None, True
        return new

    def compute_slot_mappings(self, states: Tensor, starts: Tensor, positions: Tensor, padded: int) -> Tensor:
        assert len(states) == padded
        assert len(starts) == padded + 1
        return torch.where(states < 0, -1, 100 * states + positions)[None]

    def get_dummy_block_tables(self, rows: int) -> None:
        return

    def _build(self, **arguments: Any) -> dict[str, Any]:
        self.metadata_built += 1
        return arguments

    def _refresh(self, groups: Any, metadata: Any, build: Any) -> Any:
        self.refreshed += 1
        return metadata

    def _context(self, metadata: Any, config: Any, *, slot_mapping: Any, num_tokens: int, **_: Any) -> Any:
        lengths = None if metadata is None else metadata["seq_lens"].tolist()
        slots = None if slot_mapping is None else slot_mapping["layer"][0].tolist()
        self.calls.append({"lengths": lengths, "slots": slots, "rows": num_tokens})
        return torch.no_grad()

    def __call__(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        self.calls[-1] |= {"tokens": input_ids.tolist(), "positions": positions.tolist()}
        return input_ids

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def _draw(self, logits: Tensor, index: Tensor, *rest: Tensor) -> Tensor:
        self.calls[-1] |= {"index": index.tolist(), "column": int(rest[-1])}
        return (logits + 1).to(torch.int64)

    def propose(self, length: int, **changes: Any) -> Tensor:
        """Three requests, states 6, 2 and 4: one lost a draft, one is in mid-prompt, one at the limit."""
        self.speculator.draft_length = length
        step = SimpleNamespace(
            num_reqs=3,
            idx_mapping=torch.tensor([6, 2, 4]),
            seq_lens=torch.tensor([20, 8, LIMIT - 1], dtype=torch.int32),
            seq_lens_cpu_upper_bound=torch.tensor([20, 8, LIMIT - 1], dtype=torch.int32),
        )
        arguments: dict[str, Any] = {
            "input_batch": step,
            "num_sampled": torch.tensor([2, 0, 1]),
            "num_rejected": torch.tensor([1, 0, 0]),
            "last_sampled": torch.arange(REQUESTS)[:, None] + 40,
            "temperature": torch.arange(REQUESTS) / 10,
            "seeds": torch.arange(REQUESTS) + 900,
        }
        nothing = dict.fromkeys(
            ("attn_metadata", "slot_mappings", "last_hidden_states", "aux_hidden_states", "next_prefill_tokens")
        )
        return self.speculator.propose(**(arguments | nothing | changes))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(monkeypatch)


def test_each_draft_continues_the_last_on_the_target_s_cache(runner: Runner) -> None:
    drafts = runner.propose(2)
    assert drafts[0, :2].tolist() == [47, 48]
    assert drafts[2, :2].tolist() == [45, 46]
    first, second = runner.calls
    assert first["tokens"] == [46, 42, 44]
    assert second["tokens"][0] == 47
    # 20 cached less one rejected: the token just sampled is the 20th, at position 19.
    assert (first["positions"][0], second["positions"][0]) == (19, 20)
    assert (first["lengths"][0], second["lengths"][0]) == (20, 21)
    assert (first["slots"][0], second["slots"][0]) == (619, 620)
    assert (first["column"], second["column"]) == (0, 1)


def test_a_request_in_mid_prompt_gets_no_slot_and_no_row(runner: Runner) -> None:
    runner.propose(2)
    assert [call["slots"][1] for call in runner.calls] == [-1, -1]
    assert runner.calls[0]["index"] == [0, -1, 2]


def test_nothing_goes_beyond_the_longest_context(runner: Runner) -> None:
    runner.propose(3)
    assert [call["positions"][2] for call in runner.calls] == [LIMIT - 1] * 3
    assert [call["lengths"][2] for call in runner.calls] == [LIMIT] * 3


def test_temperatures_and_seeds_follow_the_batch_and_rows_are_claimed(runner: Runner) -> None:
    runner.propose(1)
    assert torch.allclose(runner.speculator.temperature[:3], torch.tensor([0.6, 0.2, 0.4]))
    assert runner.speculator.seeds[:3].tolist() == [906, 902, 904]
    assert runner.speculator.draft_logits.owner.tolist() == [6, 2, 4, FREE]


def test_buffers_beyond_the_batch_are_nobody_s(runner: Runner) -> None:
    runner.propose(1)
    speculator = runner.speculator
    assert speculator.input_buffers.seq_lens[3:].tolist() == [0] * 5
    assert speculator.input_buffers.query_start_loc.tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert speculator.idx_mapping[3:].tolist() == [-1] * 5
    assert speculator._index[3:].tolist() == [-1] * 5


def test_plain_steps_and_too_large_batches_run_nothing(runner: Runner) -> None:
    assert runner.propose(0).eq(-1).all()
    runner.speculator._rows = 2
    assert runner.propose(3).eq(-1).all()
    assert runner.calls == []


def test_a_drafter_that_fell_behind_is_not_run_and_its_drafts_are_certain(runner: Runner) -> None:
    runner.speculator.state.ready = False
    assert runner.propose(2).eq(0).all()
    assert runner.calls == []
    probabilities = runner.speculator.draft_logits.logits[:3].softmax(dim=-1)
    assert probabilities[..., 0].eq(1).all()
    assert probabilities[..., 1:].eq(0).all()
    assert runner.speculator.draft_logits.owner.tolist() == [6, 2, 4, FREE]


class Graphs:
    """Has one graph, of 4 rows and every γ."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, int]] = []

    def rows_for(self, batch: int, length: int) -> int:
        return 4

    def replay(self, rows: int, length: int) -> None:
        self.launched.append((rows, length))


def test_with_graphs_one_launch_drafts_all(runner: Runner) -> None:
    runner.speculator._graphs = graphs = Graphs()
    runner.propose(3)
    assert graphs.launched == [(4, 3)]
    assert runner.calls == []
    assert runner.metadata_built == 0


def test_a_profiling_run_and_the_start_up_test_need_no_graphs(runner: Runner) -> None:
    runner.speculator._graphs = graphs = Graphs()
    runner.propose(1, dummy_run=True, skip_attn_for_dummy_run=True, is_profile=True)
    runner.speculator.draft_by_policy(runner)
    runner.propose(1)
    assert graphs.launched == []
    assert len(runner.calls) == 2
    assert runner.calls[0]["slots"] is None


def test_a_dummy_run_leaves_the_rows_of_real_drafts_alone(runner: Runner) -> None:
    runner.propose(1)
    owners = runner.speculator.draft_logits.owner.tolist()
    runner.propose(1, dummy_run=True, skip_attn_for_dummy_run=False)
    assert runner.speculator.draft_logits.owner.tolist() == owners
    assert runner.calls[-1]["slots"] == [-1, -1, -1]
    assert runner.calls[-1]["index"] == [-1, -1, -1]


def test_metadata_in_a_graph_is_built_once_and_refreshed_on_the_device(runner: Runner) -> None:
    runner.speculator._prepare_capture(4, 3)()
    assert runner.metadata_built == 1
    assert runner.refreshed == 3
    assert [call["lengths"] for call in runner.calls] == [[1] * 4, [2] * 4, [3] * 4]
    assert runner.calls[0]["slots"] == [-1] * 4  # a capture must not write into the cache


class NoWaiting(TorchDispatchMode):
    """Fails where a value of a tensor is read by the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits for the device"
        return func(*args, **(kwargs or {}))


def test_drafting_from_a_graph_never_waits_for_the_device(runner: Runner) -> None:
    runner.speculator._graphs = Graphs()
    with NoWaiting():
        runner.propose(3)


def test_the_watch_for_waiting_works() -> None:
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        torch.ones(2).sum().item()


def test_graphs_captured_to_estimate_memory_are_dropped(runner: Runner) -> None:
    """They hold addresses of a KV cache that is gone once the real one is made."""
    runner.speculator._graphs = Graphs()
    runner.speculator.init_cudagraph_manager(CUDAGraphMode.FULL)
    runner.propose(2)
    assert len(runner.calls) == 2


def test_profiling_runs_the_drafter_on_as_many_rows_as_it_has(runner: Runner) -> None:
    runner.speculator._rows = 2
    drafts = runner.propose(3, dummy_run=True, skip_attn_for_dummy_run=True, is_profile=True)
    assert [call["rows"] for call in runner.calls] == [2, 2, 2]
    assert drafts.shape == (3, LONGEST)
