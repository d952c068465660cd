"""Temperature above 0: every request gets the distribution that it asks for, alone and beside all others.

Counts are compared with the exact distribution, which follows from the definitions of the parameters (tests/exact.py),
and in the full tier with those of plain decoding as well.
"""

from collections import Counter
from typing import Any

import pytest
from vllm import LLM

from tests.counts import Tokens, against_exact, against_plain
from tests.engines import set_gate
from tests.lossless.matrix import SAMPLING, gate
from tests.lossless.sampling import Bench, note
from tests.lossless.witness import watch
from tests.proof import Proof

pytestmark = pytest.mark.engine
WRONG, FULL = "often wrong", pytest.mark.full


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("model"), vocabulary=8, prompt=[1, 5, 2, 7, 3], length=3)


def test_requests_of_all_kinds_in_one_batch(bench: Bench, proof: Proof) -> None:
    llm = bench.engine(WRONG)
    set_gate(llm, **gate("random"))
    with watch(llm) as seen:
        counts = bench.sample(llm, 10_000 if proof.full else 2_000, list(SAMPLING.values()), n=20)
    verdicts = {
        name: against_exact(found, bench.exact(**asked))
        for (name, asked), found in zip(SAMPLING.items(), counts, strict=True)
    }
    for name, verdict in verdicts.items():
        note(proof, f"{name}, beside all others", WRONG, "random", verdict, seen)
    assert all(verdict.exact for verdict in verdicts.values()), verdicts
    assert seen.accepted
    assert seen.rejected
    assert seen.stopped_inside


@pytest.mark.full
@pytest.mark.parametrize("name", SAMPLING)
def test_every_kind_of_request_alone(bench: Bench, name: str, proof: Proof) -> None:
    llm, asked = bench.engine(WRONG), SAMPLING[name]
    set_gate(llm, **gate("random"))
    with watch(llm) as seen:
        (counts,) = bench.sample(llm, 10_000, [asked])
    (plain,) = bench.sample(bench.engine("plain"), 20_000, [asked])
    exactly, plainly = against_exact(counts, bench.exact(**asked)), against_plain(counts, plain)
    note(proof, name, WRONG, "random", exactly, seen)
    note(proof, f"{name}, against plain decoding", WRONG, "random", plainly, seen)
    assert exactly.exact
    assert plainly.exact
    assert seen.accepted
    assert seen.rejected


def test_plain_decoding_agrees_with_the_exact_distribution(bench: Bench) -> None:
    """The reference itself is right."""
    counts = bench.sample(bench.engine("plain"), 1_000, list(SAMPLING.values()), n=20)
    verdicts = {
        name: against_exact(found, bench.exact(**asked))
        for (name, asked), found in zip(SAMPLING.items(), counts, strict=True)
    }
    assert all(verdict.exact for verdict in verdicts.values()), verdicts


def test_seeded_requests(bench: Bench, proof: Proof) -> None:
    """A seed of its own for each: samples as exact as others. The same γ, the same seeds: the same tokens, in whatever
    order the requests come. Another γ: other tokens, which no drafter can promise."""
    llm, count = bench.engine(WRONG), 5_000 if proof.full else 1_000
    seeded = [{"seed": seed} for seed in range(count)]
    set_gate(llm, **gate(3))
    with watch(llm) as seen:
        first = tokens_of(bench, llm, seeded)
    assert tokens_of(bench, llm, seeded[::-1]) == first[::-1]
    set_gate(llm, **gate(2))
    assert tokens_of(bench, llm, seeded) != first
    verdict = against_exact(sum(first, start=Counter()), bench.exact())
    note(proof, "a seed for every request", WRONG, 3, verdict, seen)
    assert verdict.exact


def tokens_of(bench: Bench, llm: LLM, asked: list[dict[str, Any]]) -> list["Counter[Tokens]"]:
    """A count of one for each request."""
    return bench.sample(llm, 1, asked, n=1)


@pytest.mark.parametrize(
    ("name", "prompt", "vllm"),
    [
        ("prefix cache", 300, {}),
        pytest.param("no prefix cache", 300, {"enable_prefix_caching": False}, marks=FULL),
        pytest.param(
            "chunked prefill", 150, {"max_num_batched_tokens": 64, "max_num_seqs": 32}, marks=pytest.mark.full
        ),
        ("too little memory", 116, {"num_gpu_blocks_override": 40, "max_num_seqs": 32}),
    ],
)
def test_other_engine_settings(
    tmp_path_factory: pytest.TempPathFactory, name: str, prompt: int, vllm: dict[str, Any], proof: Proof
) -> None:
    """Seven tokens of two; requests of 116 tokens need a second block of the KV cache while they draft."""
    bench = Bench(tmp_path_factory.mktemp("model"), 2, [i % 7 % 2 for i in range(prompt)], 7)
    llm = bench.start(WRONG, max_model_len=400, **vllm)
    set_gate(llm, **gate("random"))
    with watch(llm) as seen:
        (counts,) = bench.sample(llm, 5_000 if proof.full else 1_000, [{}])
    verdict = against_exact(counts, bench.exact())
    note(proof, f"seven tokens of two, {name}", WRONG, "random", verdict, seen)
    assert verdict.exact
    assert seen.accepted
    assert seen.rejected
    assert seen.preempted if name == "too little memory" else not seen.preempted
