"""Before the first request: drafts of the policy itself must be accepted, or this vLLM is not the one we know.

With the policy in the drafter's place proposal and target are the same distribution, up to rounding. If hardly all of
its drafts are kept, then slots, positions, cache or rejection differ from what this package was built for: whatever it
changed would cost time at best. The engine then decodes plainly.
"""

from typing import Any

from vllm import SamplingParams
from vllm.logger import init_logger
from vllm.v1.request import Request

from ..gate.gates import FixedGate

logger = init_logger("vllm.efficientrollout")

NEW_TOKENS = 32
PROMPT = tuple(range(1, 20))
LEAST_ACCEPTED = 0.75
"""Of all drafts. At temperature 1 rounding costs less than one in a hundred, even where all logits are nearly equal;
a wrong slot or position leaves little that agrees."""


def after_init(original: Any) -> Any:
    """Wrap `EngineCore.__init__`."""

    def init(core: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        from .plugin import is_enabled

        original(core, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config):
            run(core)

    return init


def run(core: Any) -> None:
    """Test `core`, an engine that has no requests. Raises UnsupportedError if it fails and the settings are strict."""
    if not core.scheduler.may_draft() or core.scheduler.max_model_len < len(PROMPT) + NEW_TOKENS:
        return
    drafted, accepted = measure(core)
    if accepted < LEAST_ACCEPTED * drafted or not drafted:
        reason = f"the start-up test failed, {accepted} of {drafted} drafts of the policy itself were accepted"
        core.collective_rpc("efficientrollout_decode_plainly", args=(reason,))
    else:
        logger.info("EfficientRollout's start-up test: %d of %d drafts accepted", accepted, drafted)


def measure(core: Any) -> tuple[int, int]:
    """Drafts made, and drafts accepted, of one answer that the policy itself drafts. Leaves no trace in `core`."""
    scheduler = core.scheduler
    gate, ledger, evidence = scheduler.gate, scheduler.ledger, scheduler.evidence
    scheduler.gate, scheduler.evidence = FixedGate(scheduler.num_spec_tokens), None
    scheduler.ledger = type(ledger)(scheduler.num_spec_tokens)
    core.collective_rpc("efficientrollout_draft_by_policy", args=(True,))
    try:
        _generate(core)
        return scheduler.ledger.drafted_tokens, scheduler.ledger.accepted_tokens
    finally:
        core.collective_rpc("efficientrollout_draft_by_policy", args=(False,))
        scheduler.gate, scheduler.ledger, scheduler.evidence = gate, ledger, evidence
        core.reset_prefix_cache()


def _generate(core: Any) -> None:
    sampling = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    vocabulary = core.vllm_config.model_config.get_vocab_size()
    prompt = [token % vocabulary for token in PROMPT]
    # Without the hashes of its blocks vLLM 0.25.1 cannot look for a sliding window's in the prefix cache.
    hasher = core.request_block_hasher
    core.scheduler.add_request(Request("efficientrollout-self-test", prompt, sampling, None, block_hasher=hasher))
    while core.scheduler.has_requests() or core.batch_queue:
        _, executed = core.step_fn()
        core.post_step(executed)
