"""No pass of policy or drafter ever writes a KV block of another request, even where its block table invites it to.

vLLM leaves old block ids in a block table behind those that a request owns. Here they are made as bad as they can be:
ids of blocks that other running requests own. Then KV tensors are compared before and after every pass of a model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vllm import LLM
from vllm.forward_context import get_forward_context

from nemo_rl_efficientrollout.engine import proposer_v1
from tests.engines import core_of, drafted_and_accepted, generate, prompts, runner_of, set_gate, start, stats
from tests.models import VOCABULARY, save_tiny_model
from tests.proof import Proof

pytestmark = pytest.mark.engine
MAX, BLOCK, BLOCKS = 8, 32, 61
CROWDED: dict[str, Any] = {
    "block_size": BLOCK,
    "num_gpu_blocks_override": BLOCKS,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": 128,
}
"""Fewer seats than requests, prompts in chunks, and answers that end at max_model_len."""
BATCH = prompts(12, VOCABULARY, shortest=20, longest=90)
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain_tokens(model: Path) -> list[list[int]]:
    return generate(start(model, **CROWDED), BATCH, NEW_TOKENS)


@pytest.fixture(scope="module")
def engine(model: Path) -> Callable[[str], LLM]:
    """By the drafter's format, started when it is first asked for."""
    settings = {"draft_length": {"max": MAX}}
    return cache(lambda name: start(model, settings | {"drafter": {"format": name}}, **CROWDED))


class Watch:
    """Who owns which block, and who wrote where."""

    def __init__(self, llm: LLM) -> None:
        self._runner = runner_of(llm)
        self._caches = core_of(llm).scheduler.kv_cache_manager
        self._before: list[torch.Tensor] = []
        self.poisoned = 0
        """Entries of block tables that were made to name a foreign block."""
        self.first_slots = 0
        """Drafts that were the first to write into a block."""
        self.foreign: list[str] = []
        """Writes into other slots than a row's own, in words."""

    def poison(self, table: Any) -> None:
        """Behind the blocks of every request, those of the others."""
        owned = [self._owned(row) for row in range(len(self._runner.input_batch.req_ids))]
        for row, mine in enumerate(owned):
            others = [block for blocks in owned for block in blocks if block not in mine]
            tail = table.block_table.np[row, table.num_blocks_per_row[row] :]
            if others:
                tail[:] = np.resize(others, tail.shape)
                self.poisoned += tail.size

    def before(self, *_: Any) -> None:
        self._before = [cache.clone() for cache in self._runner.kv_caches]

    def after(self, module: Any, *_: Any) -> None:
        """The pass that ended wrote where its slots said, and every row's slots are its own."""
        context: Any = get_forward_context()
        layer, metadata = next(iter(context.attn_metadata.items()))
        slots, starts, lengths = (
            tensor.tolist() for tensor in (context.slot_mapping[layer], metadata.query_start_loc, metadata.seq_lens)
        )
        who = "policy" if module is self._runner.model else "drafter"
        allowed: set[int] = set()
        for row, (first, stop) in enumerate(pairwise(starts)):
            mine = self._owned(row)
            allowed.update(mine)
            for position, slot in enumerate(slots[first:stop], lengths[row] - (stop - first)):
                if slot < 0:  # padding
                    continue
                self.first_slots += who == "drafter" and slot % BLOCK == 0
                own = mine[position // BLOCK] * BLOCK + position % BLOCK if position // BLOCK < len(mine) else "none"
                if slot != own:
                    self.foreign.append(f"{who}: row {row} wrote slot {slot}, its own at {position} is {own}")
        changed = {block for cache, old in self._pairs() for block in differing(cache, old)}
        self.foreign += [f"{who}: block {block} of nobody in this pass" for block in changed - allowed]

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self._runner.kv_caches, self._before, strict=True)

    def _owned(self, row: int) -> list[int]:
        (blocks,) = self._caches.get_block_ids(self._runner.input_batch.req_ids[row])
        return blocks


def differing(cache: torch.Tensor, old: torch.Tensor) -> list[int]:
    """Blocks of a KV tensor that changed."""
    axis = cache.shape.index(BLOCKS)
    return (cache != old).transpose(0, axis).flatten(1).any(dim=1).nonzero().flatten().tolist()


@contextmanager
def watching(llm: LLM) -> Iterator[Watch]:
    """Block tables of `llm` are poisoned before every step, and every pass of its models is watched."""
    runner, watch = runner_of(llm), Watch(llm)
    (table,) = runner.input_batch.block_table.block_tables
    commit = table.commit_block_table

    def poison_and_commit(rows: int) -> None:
        watch.poison(table)
        commit(rows)

    table.commit_block_table = poison_and_commit
    models = (runner.model, runner.drafter.model)
    hooks = [m.register_forward_pre_hook(watch.before) for m in models]
    hooks += [m.register_forward_hook(watch.after) for m in models]
    try:
        yield watch
    finally:
        del table.commit_block_table
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("draft_length", range(1, MAX + 1))
@pytest.mark.parametrize("format_name", ["bf16", "int8"])
def test_no_foreign_block_is_written(
    engine: Callable[[str], LLM], plain_tokens: list[list[int]], format_name: str, draft_length: int, proof: Proof
) -> None:
    llm = engine(format_name)
    set_gate(llm, mode="fixed", draft_length=draft_length)
    llm.collective_rpc("efficientrollout_timeline")
    before = stats(llm)
    with watching(llm) as watch:
        tokens = generate(llm, BATCH, NEW_TOKENS)
    drafted, accepted = drafted_and_accepted(llm, before)
    proof.row(
        "KV isolation",
        format=format_name,
        γ=draft_length,
        poisoned_entries=watch.poisoned,
        drafted=drafted,
        tokens=sum(map(len, plain_tokens)),
        differences=sum(own != plain for own, plain in zip(tokens, plain_tokens, strict=True)),
        foreign_writes=len(watch.foreign),
    )
    assert watch.foreign == []
    assert tokens == plain_tokens
    assert drafted > 0.8 * sum(map(len, plain_tokens)) * draft_length / (draft_length + 1)
    assert max(llm.collective_rpc("efficientrollout_timeline")[0]["draft_length"]) == draft_length
    assert accepted == drafted if format_name == "bf16" else 0.8 * drafted < accepted < drafted
    assert watch.poisoned > 0
    assert watch.first_slots > len(BATCH) / 2


def no_lookahead(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_of(llm).scheduler, "num_lookahead_tokens", 0)


def one_slot_too_low(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    original = proposer_v1.eagle_step_update_slot_mapping_and_metadata

    def update(out_slot_mapping: torch.Tensor, **arguments: Any) -> None:
        original(out_slot_mapping=out_slot_mapping, **arguments)
        out_slot_mapping -= (out_slot_mapping > 0).to(out_slot_mapping.dtype)

    monkeypatch.setattr(proposer_v1, "eagle_step_update_slot_mapping_and_metadata", update)


@pytest.mark.parametrize("fault", [no_lookahead, one_slot_too_low])
def test_a_foreign_write_is_seen(engine: Callable[[str], LLM], monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    llm = engine("bf16")
    set_gate(llm, mode="fixed", draft_length=MAX)
    fault(llm, monkeypatch)
    with watching(llm) as watch:
        generate(llm, BATCH, NEW_TOKENS)
    assert any(line.startswith("drafter: row") for line in watch.foreign)
