"""Returned logprobs are the policy's own: a forward pass of transformers over the whole answer gives the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM

from tests.engines import prompts, set_gate, start
from tests.exact import constrain, load
from tests.lossless.matrix import SAMPLING, gate, settings
from tests.lossless.sampling import request
from tests.lossless.witness import watch
from tests.models import VOCABULARY, save_tiny_model, save_tokenizer
from tests.proof import Proof

pytestmark = pytest.mark.engine
BATCH = prompts(2 * (len(SAMPLING) + 1), VOCABULARY, seed=8)
NEW_TOKENS = 40
TOP = 4
BOUND = 2e-4
"""Largest difference in nats, in float32: sums of another order."""
ASKED: list[dict[str, Any]] = [{"temperature": 0.0}, *SAMPLING.values()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny_model(tmp_path_factory.mktemp("model"), sharpness=0.5)
    save_tokenizer(directory, VOCABULARY)
    return directory


@pytest.mark.parametrize("mode", ["processed_logprobs", "raw_logprobs"])
@pytest.mark.parametrize("format_name", ["int8", pytest.param("int4", marks=pytest.mark.full)])
@pytest.mark.parametrize("gamma", ["random", *(pytest.param(g, marks=pytest.mark.full) for g in (1, 3, 8, "gate"))])
def test_logprobs_equal_a_separate_forward_pass(
    model: Path, mode: str, format_name: str, gamma: int | str, proof: Proof
) -> None:
    llm = start(model, settings(format_name), logprobs_mode=mode, skip_tokenizer_init=False)
    set_gate(llm, **gate(gamma))
    with watch(llm) as seen:
        differences = measure(llm, model, mode)
    proof.row(
        "logprobs",
        configuration=f"{mode}, requests of all kinds in one batch",
        format=format_name,
        γ=gamma,
        accepted=round(seen.accepted / seen.drafted, 3),
        tokens=len(differences),
        **{"largest difference": float(f"{max(differences):.2g}"), "bound": BOUND},
    )
    assert max(differences) < BOUND
    assert len(differences) > len(BATCH) * NEW_TOKENS / 2
    assert seen.accepted
    assert seen.rejected


def measure(llm: LLM, model: Path, mode: str) -> list[float]:
    """For every generated token: by how much its logprob, or one of the most likely ones', is off."""
    asked = [ASKED[i % len(ASKED)] for i in range(len(BATCH))]
    outputs = llm.generate(BATCH, [request(own, max_tokens=NEW_TOKENS, logprobs=TOP) for own in asked], use_tqdm=False)  # type: ignore[arg-type]
    reference, differences, processed = load(model), [], mode == "processed_logprobs"
    for prompt, own, output in zip((p["prompt_token_ids"] for p in BATCH), asked, outputs, strict=True):
        tokens = list(output.outputs[0].token_ids)
        returned: Any = output.outputs[0].logprobs
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
        for place, (token, found) in enumerate(zip(tokens, returned, strict=True)):
            row = _processed(logits[place], prompt, tokens[:place], own) if processed else logits[place]
            right = row.log_softmax(-1)
            assert token in found
            assert len(found) >= TOP
            differences.append(max(_difference(one.logprob, float(right[name])) for name, one in found.items()))
    return differences


def _difference(found: float, right: float) -> float:
    return 0.0 if found == right else abs(found - right)  # tokens that are filtered out have -inf


def _processed(logits: torch.Tensor, prompt: list[int], before: list[int], asked: dict[str, Any]) -> torch.Tensor:
    own = dict(asked)
    stops, least = own.pop("stop_token_ids", ()), own.pop("min_tokens", 0)
    if own.get("temperature") == 0.0:  # drawn from nothing: vLLM returns what it took the largest of
        del own["temperature"]
    return constrain(logits, prompt, before, never=stops if len(before) < least else (), **own)
