"""Temperature above 0: the joint distribution of the first tokens must be the policy's own.

The whole chain draws the samples: draft, verify, recover, bonus. Counts are compared with the exact distribution, which
transformers gives (tests/exact.py). The same comparison must turn red when the chain is broken on purpose.
"""

from typing import Any

import pytest
import torch
from vllm.utils import cpu_triton_utils
from vllm.v1.sample import rejection_sampler

from nemo_rl_efficientrollout.engine.proposer_v1 import TwinProposer
from nemo_rl_efficientrollout.patching import unwrap, wrap
from tests.counts import against_exact
from tests.engines import set_gate
from tests.lossless.matrix import GAMMAS, MAX, gate
from tests.lossless.sampling import Bench, note
from tests.lossless.witness import watch
from tests.proof import Proof

pytestmark = pytest.mark.engine
BROKEN = 1e-12
QUICK = {("always right", 3), ("int8", 3), ("often wrong", 1), ("often wrong", 5), ("often wrong", "random")}
FULL = [("often wrong", gamma) for gamma in GAMMAS] + [
    (drafter, gamma) for drafter in ("always right", "int8", "int4") for gamma in (3, MAX, "random")
]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Three tokens of four: 64 sequences, few enough to see a small bias."""
    return Bench(tmp_path_factory.mktemp("short"), vocabulary=4, prompt=[1, 3, 2, 0, 3], length=3)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Drafts of MAX tokens, the token before and the one behind them, of two: 1024 sequences."""
    return Bench(tmp_path_factory.mktemp("deep"), vocabulary=2, prompt=[1, 0, 0, 1, 1], length=MAX + 2)


@pytest.mark.parametrize(
    ("drafter", "gamma"),
    [
        pytest.param(drafter, gamma, marks=[] if (drafter, gamma) in QUICK else pytest.mark.full)
        for drafter, gamma in FULL
    ],
)
def test_drafters_and_draft_lengths(short: Bench, drafter: str, gamma: int | str, proof: Proof) -> None:
    llm = short.engine(drafter)
    set_gate(llm, **gate(gamma))
    with watch(llm) as seen:
        (counts,) = short.sample(llm, 20_000 if proof.full else 10_000, [{}])
    verdict = against_exact(counts, short.exact())
    note(proof, "three tokens of four", drafter, gamma, verdict, seen)
    assert verdict.exact
    rate = seen.accepted / seen.drafted
    if drafter == "always right":
        assert rate == 1.0 if gamma == 3 else rate > 0.8, rate
    else:
        assert 0.3 < rate < {"often wrong": 0.9}.get(drafter, 0.999), rate


@pytest.mark.parametrize("gamma", [MAX, *(pytest.param(g, marks=pytest.mark.full) for g in (4, 7, "random", "gate"))])
def test_drafts_to_their_end(deep: Bench, gamma: int | str, proof: Proof) -> None:
    llm = deep.engine("often wrong")
    set_gate(llm, **gate(gamma))
    with watch(llm) as seen:
        (counts,) = deep.sample(llm, 20_000 if proof.full else 6_000, [{}])
    verdict = against_exact(counts, deep.exact())
    note(proof, "ten tokens of two", "often wrong", gamma, verdict, seen)
    assert verdict.exact
    assert seen.accepted
    assert seen.rejected


def accept_everything(original: Any) -> Any:
    def broken(*args: Any, **kwargs: Any) -> Any:
        uniform = next(a for a in args if isinstance(a, torch.Tensor) and a.dtype == torch.float64)
        uniform.zero_()
        return original(*args, **kwargs)

    return broken


def forget_the_draft_in_recovery(original: Any) -> Any:
    """Recover from the target instead of from the residual max(0, p - q)."""

    def broken(out: Any, cu: Any, drafts: Any, draft_probs: Any, *rest: Any, **kwargs: Any) -> Any:
        return original(out, cu, drafts, torch.zeros_like(draft_probs), *rest, **kwargs)

    return broken


def launch_of(kernel: str) -> tuple[Any, str]:
    """Owner and name of the function by which this vLLM runs a kernel of the rejection sampler on CPU."""
    if hasattr(rejection_sampler, f"_{kernel}"):
        return rejection_sampler, f"_{kernel}"
    return getattr(cpu_triton_utils, f"{kernel}_kernel"), "func"  # 0.25.1 has an object each


def stale(probabilities: torch.Tensor) -> torch.Tensor:
    """The distributions of another request."""
    return probabilities.roll(1, dims=0)


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        pytest.param(*launch_of("rejection_random_sample"), accept_everything, id="accept-everything"),
        pytest.param(*launch_of("sample_recovered_tokens"), forget_the_draft_in_recovery, id="no-residual"),
        pytest.param(
            TwinProposer, "take_last_draft_probs", lambda original: lambda self: stale(original(self)), id="stale-probs"
        ),
    ],
)
def test_a_broken_rejection_step_is_caught(short: Bench, owner: Any, name: str, fault: Any) -> None:
    llm = short.engine("often wrong")
    set_gate(llm, mode="fixed", draft_length=3)
    wrap(owner, name, fault)
    try:
        (counts,) = short.sample(llm, 10_000, [{}])
    finally:
        unwrap(owner, name)
    verdict = against_exact(counts, short.exact())
    assert verdict.p < BROKEN
    assert verdict.kl > verdict.band


def test_stock_vllm_on_cpu_samples_garbage_without_the_workaround(short: Bench) -> None:
    """Fails once vLLM is mended: then compat/cpu_sampling.py can go."""
    llm = short.engine("always right")
    set_gate(llm, mode="fixed", draft_length=3)
    wrapper = unwrap(rejection_sampler, "expand_batch_to_tokens")
    try:
        with watch(llm) as seen:
            short.sample(llm, 5_000, [{}])
    finally:
        wrap(rejection_sampler, "expand_batch_to_tokens", lambda original: wrapper)
    assert seen.accepted < 0.99 * seen.drafted  # with the workaround all are accepted
