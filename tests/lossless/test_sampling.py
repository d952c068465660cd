"""Temperature 1: the joint distribution of the first tokens must be the policy's own.

The whole chain draws the samples: draft, verify, recover, bonus. Counts of speculative decoding are compared with
those of plain decoding on the stock engine (two-sample chi-square). The same comparison must turn red when the
rejection step, or the record of what was drafted, is broken on purpose.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from vllm import LLM, SamplingParams
from vllm.utils import cpu_triton_utils
from vllm.v1.sample import rejection_sampler

from nemo_rl_efficientrollout.engine.proposer_v1 import TwinProposer
from nemo_rl_efficientrollout.patching import unwrap, wrap
from tests.engines import difference, set_gate, start, stats, worker_state
from tests.models import save_tiny_model

pytestmark = pytest.mark.engine
SAMPLES = 50_000
PER_REQUEST = 500
VOCABULARY = 8
ALPHA = 1e-4
"""Level of each comparison: with a dozen of them, a false alarm once in about a thousand runs of the suite."""
BROKEN = 1e-12
PROMPT = {"prompt_token_ids": [1, 5, 2, 7, 3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY, sharpness=0.5)


@pytest.fixture(scope="module")
def plain_counts(model: Path) -> Counter:
    return sample(start(model, max_num_seqs=PER_REQUEST, max_model_len=64))


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, LLM]:
    def build(format_name: str) -> LLM:
        settings = {"drafter": {"format": format_name}, "draft_length": {"max": 5, "max_requests": PER_REQUEST}}
        return start(model, settings, max_num_seqs=PER_REQUEST, max_model_len=64)

    engines = {"bf16": build("bf16"), "int8": build("int8"), "noisy": build("int8")}
    add_noise(engines["noisy"])
    return engines


def add_noise(llm: LLM) -> None:
    """A drafter that is often wrong: most of what it drafts must be recovered from the residual."""
    torch.manual_seed(0)
    twin = worker_state(llm).twin
    with torch.inference_mode():
        for layer in twin.quantized:
            weight = layer.source.weight
            layer.fill([layer.method.format.quantize(weight + 0.5 * weight.std() * torch.randn_like(weight))])


def sample(llm: LLM, count: int = SAMPLES) -> Counter:
    """Counts of the first three tokens; the first is plain, the others are drafted."""
    params = SamplingParams(n=PER_REQUEST, temperature=1.0, max_tokens=3, ignore_eos=True, detokenize=False)
    outputs = llm.generate([PROMPT] * (count // PER_REQUEST), params, use_tqdm=False)  # type: ignore[arg-type]
    return Counter(tuple(completion.token_ids) for output in outputs for completion in output.outputs)


def p_value(left: Counter, right: Counter, tokens: slice) -> float:
    """Two-sample chi-square over the joint counts of `tokens`; cells expected under 5 are pooled."""

    def marginal(counts: Counter) -> Counter:
        merged: Counter = Counter()
        for key, count in counts.items():
            merged[key[tokens]] += count
        return merged

    a, b = marginal(left), marginal(right)
    cells = sorted(set(a) | set(b))
    table = np.array([[a[cell] for cell in cells], [b[cell] for cell in cells]])
    rare = table.sum(axis=0) < 10
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)])
    table = table[:, table.sum(axis=0) > 0]
    return float(chi2_contingency(table)[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("format_name", ["bf16", "int8", "noisy"])
@pytest.mark.parametrize("draft_length", [1, 3, 5])
def test_joint_distribution_is_the_policys(
    engines: Any, plain_counts: Counter, format_name: str, draft_length: int
) -> None:
    llm = engines[format_name]
    set_gate(llm, mode="fixed", draft_length=draft_length)
    before = stats(llm)
    counts = sample(llm)
    after = stats(llm)
    rate = difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")
    assert {"bf16": rate == 1.0, "int8": 0.9 < rate < 1.0, "noisy": 0.3 < rate < 0.9}[format_name], rate
    assert p_value(counts, plain_counts, slice(0, 2)) > ALPHA
    assert p_value(counts, plain_counts, slice(0, 3)) > ALPHA


def test_plain_decoding_agrees_with_the_exact_distribution(model: Path, plain_counts: Counter) -> None:
    """The reference itself is right: first-token counts against the model's own softmax, computed by transformers."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logits = reference(torch.tensor([PROMPT["prompt_token_ids"]])).logits[0, -1]
    expected = logits.softmax(-1).double().numpy() * SAMPLES
    observed = np.zeros(VOCABULARY)
    for tokens, count in plain_counts.items():
        observed[tokens[0]] += count
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < 40  # chi-square with 7 degrees of freedom exceeds 40 once in a million


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
def test_a_broken_rejection_step_is_caught(
    engines: Any, plain_counts: Counter, owner: Any, name: str, fault: Any
) -> None:
    llm = engines["noisy"]
    set_gate(llm, mode="fixed", draft_length=3)
    wrap(owner, name, fault)
    try:
        counts = sample(llm)
    finally:
        unwrap(owner, name)
    assert p_value(counts, plain_counts, slice(0, 2)) < BROKEN


def stale(probabilities: torch.Tensor) -> torch.Tensor:
    """The distributions of another request."""
    return probabilities.roll(1, dims=0)


def test_stock_vllm_on_cpu_samples_garbage_without_the_workaround(engines: Any) -> None:
    """Fails once vLLM is mended: then compat/cpu_sampling.py can go."""
    llm = engines["bf16"]
    set_gate(llm, mode="fixed", draft_length=3)
    wrapper = unwrap(rejection_sampler, "expand_batch_to_tokens")
    try:
        before = stats(llm)
        sample(llm, count=5_000)
        after = stats(llm)
    finally:
        wrap(rejection_sampler, "expand_batch_to_tokens", lambda original: wrapper)
    rate = difference(after, before, "accepted_tokens") / difference(after, before, "drafted_tokens")
    assert rate < 0.99  # with the workaround it is exactly 1
