"""vLLM's model runner V1 forbids stop tokens for longer than `min_tokens` asks.

The token behind a verified draft stands as many places further as there were drafts, but vLLM (0.25.1 to 0.32.0) tells
from the tokens before them whether stop tokens are forbidden there: an answer that could end goes on. Remove when
`Sampler.apply_logits_processors` counts drafts for `MinTokensLogitsProcessor` as it does for penalties.
"""

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor.builtin import MinTokensLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from ...patching import wrap


def install() -> None:
    """Count drafts. Steps that verified nothing are left alone."""
    wrap(Sampler, "apply_logits_processors", _counting_drafts)


def _counting_drafts(original: Any) -> Any:
    def apply(sampler: Any, logits: Tensor, metadata: SamplingMetadata, predict_bonus_token: bool) -> Tensor:
        processors = [p for p in metadata.logitsprocs.non_argmax_invariant if isinstance(p, MinTokensLogitsProcessor)]
        if not predict_bonus_token or not any(p.min_toks for p in processors):
            return original(sampler, logits, metadata, predict_bonus_token)
        drafts = metadata.spec_token_ids or [()] * len(logits)
        kept = [(p, p.logits_slice) for p in processors]
        for processor, (rows, tokens) in kept:
            least = {row: entry[0] - len(entry[1]) for row, entry in processor.min_toks.items()}
            forbidden = rows.new_tensor([least[row] > len(drafts[row]) for row in rows.tolist()]).bool()
            processor.logits_slice = rows[forbidden], tokens[forbidden]
        try:
            return original(sampler, logits, metadata, predict_bonus_token)
        finally:
            for processor, forbidden_before in kept:
                processor.logits_slice = forbidden_before

    return apply
