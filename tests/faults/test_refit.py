"""Faults in the middle of a refit: the policy is as it should be, the drafter waits for the next complete refit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM

from nemo_rl_efficientrollout.engine.kernels.draft_linear import DraftLinear
from tests.engines import core_of, difference, generate, prompts, set_gate, start, stats
from tests.faults.drafting import FIXED, FRESH, SETTINGS, drafts_of
from tests.faults.observed import error_of, note
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.proof import Proof

pytestmark = pytest.mark.engine
BATCH = prompts(6, VOCABULARY)
TOKENS = 24
HEALED = "the policy as it is decodes alone; the next complete refit makes a fresh drafter"
NAMED = "the caller gets the error; " + HEALED


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {seed: save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)}


@pytest.fixture(scope="module")
def expected(models: dict[int, Path]) -> list[list[int]]:
    """Plain decoding with the new weights."""
    return generate(start(models[1]), BATCH, TOKENS)


@pytest.fixture(scope="module")
def llm(models: dict[int, Path]) -> LLM:
    return start(models[0], SETTINGS)


@pytest.fixture
def old(llm: LLM, models: dict[int, Path]) -> LLM:
    """The engine, back on the old weights, drafting."""
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights_of(models[0]),))
    assert not stats(llm)["drafter_problem"]
    return llm


def refit(llm: LLM, model: Path) -> str:
    weights = weights_of(model)
    return error_of(lambda: core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights,)))


def decoded_alone(llm: LLM) -> tuple[list[list[int]], int]:
    """Tokens, and how many were drafted on the way."""
    before = stats(llm)
    tokens = generate(llm, BATCH, TOKENS)
    return tokens, difference(stats(llm), before, "drafted_tokens")


QUANTIZER = {
    "CUDA out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
    "MemoryError": MemoryError(),
    "exception of a kernel": RuntimeError("no such kernel"),
    "unforeseen exception": ZeroDivisionError("injected"),
}


@pytest.mark.parametrize("way", ["refit", "requantize"])
@pytest.mark.parametrize("fault", QUANTIZER)
def test_an_exception_in_requantization(
    fault: str,
    way: str,
    old: LLM,
    models: dict[int, Path],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    proof: Proof,
) -> None:
    """Foreseen ones leave plain decoding, others are raised; in neither case does a half-made drafter draft."""
    error, refill, count = QUANTIZER[fault], DraftLinear.refill, iter(range(1000))

    def fail(linear: DraftLinear, source: Any) -> Any:
        if next(count) == 2:
            raise error
        return refill(linear, source)

    with monkeypatch.context() as patch:
        patch.setattr(DraftLinear, "refill", fail)
        if way == "refit":
            seen = refit(old, models[1])
        else:
            seen = error_of(lambda: core_of(old).collective_rpc("efficientrollout_requantize"))
    foreseen = fault != "unforeseen exception"
    problem = stats(old)["drafter_problem"]
    tokens, drafted = decoded_alone(old)
    set_gate(old, mode="off")
    alone = generate(old, BATCH, TOKENS)
    set_gate(old, **FIXED)
    healed = refit(old, models[1]) or drafts_of(old, BATCH, expected)
    whole = tokens == (expected if way == "refit" and foreseen else alone)
    note(
        proof, fault, f"re-quantization, by {way}", HEALED if foreseen else NAMED,
        f"{seen or 'no error'}; {problem or 'no problem'}; {'right' if whole else 'wrong'} tokens, {drafted} drafted;"
        f" afterwards {healed}",
        bool(seen) != foreseen and type(error).__name__ in problem and whole and not drafted and healed == FRESH,
    )  # fmt: skip


def test_strict_settings_make_it_an_error(
    models: dict[int, Path], expected: Any, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    llm = start(models[0], SETTINGS | {"strict": True})

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(DraftLinear, "refill", fail)
        seen = refit(llm, models[1])
    problem = stats(llm)["drafter_problem"]
    drafted = decoded_alone(llm)[1]
    healed = refit(llm, models[1]) or drafts_of(llm, BATCH, expected)
    note(
        proof, "MemoryError", "re-quantization, strict", NAMED, f"{seen}; {problem}; afterwards {healed}",
        "MemoryError" in seen and "MemoryError" in problem and not drafted and healed == FRESH,
    )  # fmt: skip


def interrupted(weights: dict[str, torch.Tensor], after: int) -> Iterator[tuple[str, torch.Tensor]]:
    """A real Ctrl-C after so many tensors."""
    for number, item in enumerate(weights.items()):
        if number == after:
            os.kill(os.getpid(), signal.SIGINT)
        yield item


def test_ctrl_c_in_the_middle_of_a_refit(old: LLM, models: dict[int, Path], expected: Any, proof: Proof) -> None:
    half = interrupted(weights_of(models[1]), after=12)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        seen = error_of(lambda: core_of(old).collective_rpc("efficientrollout_load_weights", args=(_Stream(half),)))
    finally:
        signal.signal(signal.SIGINT, before)
    problem = stats(old)["drafter_problem"]
    drafted = decoded_alone(old)[1]
    healed = refit(old, models[1]) or drafts_of(old, BATCH, expected)
    note(
        proof, "Ctrl-C after 12 tensors", "refit", NAMED, f"{seen}; {problem}; {drafted} drafted; afterwards {healed}",
        seen.startswith("KeyboardInterrupt") and "KeyboardInterrupt" in problem and not drafted and healed == FRESH,
    )  # fmt: skip


class _Stream:
    """What `load_weights` takes for a mapping of tensors."""

    def __init__(self, items: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._items = items

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._items


def test_an_exception_in_mid_stream_then_the_same_again(
    old: LLM, models: dict[int, Path], expected: Any, proof: Proof
) -> None:
    """Twice in a row: the second failure must not take the first one's layers for its own."""

    def dying(after: int) -> Iterator[tuple[str, torch.Tensor]]:
        for number, item in enumerate(weights_of(models[1]).items()):
            if number == after:
                raise ConnectionError("the trainer went away")
            yield item

    def send(after: int) -> str:
        stream = _Stream(dying(after))
        return error_of(lambda: core_of(old).collective_rpc("efficientrollout_load_weights", args=(stream,)))

    seen = [send(5), send(15)]
    problem = stats(old)["drafter_problem"]
    drafted = decoded_alone(old)[1]
    healed = refit(old, models[1]) or drafts_of(old, BATCH, expected)
    note(
        proof, "the trainer goes away, twice", "refit", NAMED, f"{seen[1]}; {problem}; {drafted} drafted;"
        f" afterwards {healed}",
        all(s == "ConnectionError: the trainer went away" for s in seen)
        and "trainer went away" in problem and not drafted and healed == FRESH,
    )  # fmt: skip
