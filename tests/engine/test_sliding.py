"""Models whose attention looks back over a window, in all layers or in some."""

from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.engine.versions import installed_vllm
from tests.engines import generate, prompts, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.engine
BATCH = prompts(6, VOCABULARY, shortest=80, longest=150)  # beyond the window of 64
# vLLM 0.25.1 gives windows the CPU's smallest blocks, and one cache for all layers takes blocks of one size.
BLOCKS = {"block_size": 16} if installed_vllm() == "0.25.1" else {}
UNIFIED = {"disable_hybrid_kv_cache_manager": True, **BLOCKS}


def settings(name: str) -> dict[str, Any]:
    return {
        "drafter": {"format": name},
        "draft_length": {"max": 3},
        "gate": {"mode": "fixed", "draft_length": 3},
    }


@pytest.mark.parametrize(("family", "options"), [("mistral", {}), ("gemma3", UNIFIED)])
def test_windows_are_drafted_with_exactly(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    model = save_tiny_model(tmp_path, family)
    plain = generate(start(model), BATCH, 40)
    twin = start(model, settings("bf16"), **options)
    assert generate(twin, BATCH, 40) == plain
    assert stats(twin)["accepted_tokens"] == stats(twin)["drafted_tokens"] > 0
    quantized = start(model, settings("int8"), **options)
    assert generate(quantized, BATCH, 40) == plain
    assert stats(quantized)["accepted_tokens"] > 0


def test_windows_beside_full_attention_are_refused_with_a_way_out(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path, "gemma3")
    llm = start(model, settings("int8"))
    assert not worker_state(llm).ready
    assert generate(llm, BATCH, 20) == generate(start(model), BATCH, 20)
    with pytest.raises(Exception, match="disable_hybrid_kv_cache_manager"):
        start(model, settings("int8") | {"strict": True})
