"""Drafts drawn as the drafter draws them, through vLLM's rejection sampler: what comes out is drawn from the target.

Without an engine, so the distributions are known and may be as unlike each other as one wants.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

from nemo_rl_efficientrollout.engine import proposer_v1
from nemo_rl_efficientrollout.engine.versions import installed_vllm

pytestmark = pytest.mark.skipif(installed_vllm() == "0.25.1", reason="gives its CPU kernels to engines alone")
VOCABULARY, ROWS, DRAFTS = 6, 60_000, 2
ALPHA = 1e-5
SAMPLING: Any = SimpleNamespace(all_greedy=False, all_random=True, temperature=torch.ones(ROWS), generators={})


def conditional(seed: int) -> torch.Tensor:
    """[before, after] float32: a distribution of the next token for every token."""
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).mul(1.5).softmax(-1)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    """[ROWS, 1 + DRAFTS + 1] a first token, then what verification left of two drafts; -1 where nothing came."""
    current_platform.import_kernels()
    current_platform.register_triton_kernel_overrides()  # type: ignore[attr-defined]
    torch.manual_seed(0)
    target, drafter = conditional(1), conditional(2)
    first = torch.randint(VOCABULARY, (ROWS,))
    before, drafts, drafted_with = [first], [], []
    for _ in range(DRAFTS):
        probabilities = drafter[before[-1]]
        drafts.append(proposer_v1.draw(probabilities, {}))
        drafted_with.append(probabilities)
        before.append(drafts[-1])
    bonus = torch.multinomial(target[before[-1]], 1)
    out = rejection_sampler.rejection_sample(
        torch.stack(drafts, 1).flatten(),
        [DRAFTS] * ROWS,
        DRAFTS,
        torch.arange(1, ROWS + 1, dtype=torch.int32) * DRAFTS,
        torch.stack(drafted_with, 1).flatten(0, 1),
        torch.stack([target[token] for token in before[:-1]], 1).flatten(0, 1).log(),
        bonus,
        SAMPLING,
    )
    return torch.cat([first[:, None], out.long()], 1)


@pytest.mark.parametrize("position", range(1, DRAFTS + 2))
def test_every_token_follows_the_one_before_as_the_target_says(tokens: torch.Tensor, position: int) -> None:
    came = tokens[:, position] >= 0
    before, after = tokens[came, position - 1], tokens[came, position]
    counts = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    counts.index_put_((before, after), counts.new_ones(len(after)), accumulate=True)
    target = conditional(1).double()
    wanted = counts.sum(1, keepdim=True) * target / target.sum(1, keepdim=True)
    assert came.float().mean() > 0.2
    freedom_lost = VOCABULARY - 1  # every row of the table has its own sum
    assert chisquare(counts.flatten().numpy(), wanted.flatten().numpy(), ddof=freedom_lost).pvalue > ALPHA
