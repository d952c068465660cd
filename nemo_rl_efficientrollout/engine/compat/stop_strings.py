"""What vLLM 0.25.1 leaves behind a stop string.

It looks for stop strings once a step. Where drafts give a step several tokens, it cuts the text behind the stop string,
but neither tokens nor logprobs: the answer would be longer than by plain decoding. Remove with support of 0.25.1.
"""

from typing import Any

from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor

from ...patching import wrap
from ..versions import installed_vllm


def install() -> None:
    """End answers with the token that completes a stop string. Where steps give one token, nothing changes."""
    if installed_vllm() == "0.25.1":
        wrap(BaseIncrementalDetokenizer, "update", _token_by_token)
        wrap(LogprobsProcessor, "update_from_output", _of_tokens_kept)


def _token_by_token(original: Any) -> Any:
    def update(detokenizer: Any, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        if len(new_token_ids) < 2 or not detokenizer.stop:
            return original(detokenizer, new_token_ids, stop_terminated)
        for count, token in enumerate(new_token_ids, 1):
            stop = original(detokenizer, [token], stop_terminated and count == len(new_token_ids))
            if stop is not None:
                del new_token_ids[count:]  # the step's own list, from which all else of the answer is made
                return stop
        return None

    return update


def _of_tokens_kept(original: Any) -> Any:
    def update_from_output(processor: Any, output: Any) -> None:
        if output.new_logprobs is not None:
            output.new_logprobs = output.new_logprobs.slice_request(0, len(output.new_token_ids))
        original(processor, output)

    return update_from_output
