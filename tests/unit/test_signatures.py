"""vLLM's functions take what this package hands them, and one that does not is named."""

from typing import Any

import pytest
from vllm.v1.spec_decode.draft_model import DraftModelProposer
from vllm.v1.worker.gpu.spec_decode import rejection_sampler_utils

from nemo_rl_efficientrollout.engine.signatures import check_signatures
from nemo_rl_efficientrollout.errors import UnsupportedError


@pytest.mark.parametrize("v2", [False, True])
def test_the_installed_vllm_is_as_expected(v2: bool) -> None:
    check_signatures(v2)


def test_a_function_that_lost_an_argument_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def propose(self: Any, next_token_ids: Any, common_attn_metadata: Any, sampling_metadata: Any) -> None: ...

    monkeypatch.setattr(DraftModelProposer, "propose", propose)
    with pytest.raises(UnsupportedError, match=r"propose of .* does not take num_rejected_tokens_gpu, num_sp"):
        check_signatures(v2=False)
    check_signatures(v2=True)


def test_so_is_one_of_model_runner_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    def rejection_sample(target_logits: Any, **others: Any) -> None: ...

    monkeypatch.setattr(rejection_sampler_utils, "rejection_sample", rejection_sample)
    with pytest.raises(UnsupportedError, match="rejection_sample of this vLLM"):
        check_signatures(v2=True)
