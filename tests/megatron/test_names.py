"""Names and rows: megatron-core with the tests' own stacking computes what transformers computes from the same weights,
so that what the other tests compare with is right."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.megatron.shapes import GROUPS, HEADS, HIDDEN, LAYERS, VOCAB, Shape, hf_weights, load

TOKENS = torch.arange(12)[None]


def megatron_logits(_rank: int, folder: str, shapes: list[Shape]) -> None:
    """Writes [1, 12, VOCAB] float32 for every shape."""
    from tests.megatron.models import build, state

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", world_size=1, rank=0)
    state.initialize_model_parallel()
    from megatron.core import tensor_parallel
    from megatron.core.transformer.moe import moe_utils

    # What a forward pass of megatron-core takes for granted on a GPU with Transformer Engine.
    tensor_parallel.get_cuda_rng_tracker = lambda: SimpleNamespace(fork=nullcontext)
    moe_utils.te_general_gemm = None
    mask = torch.ones(1, 1, 12, 12).tril() < 0.5
    logits = []
    for shape in shapes:
        model = build(shape, torch.float32).eval()
        load(model, hf_weights(shape), shape, state)
        with torch.no_grad():
            logits.append(model(TOKENS, TOKENS, mask)[..., :VOCAB])
    torch.save(logits, f"{folder}/logits.pt")


def transformers_logits(shape: Shape) -> torch.Tensor:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": shape.head,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": shape.tied,
        "rope_theta": 10000.0,
    }
    weights = {name: weight.float() for name, weight in hf_weights(shape).items()}
    if not shape.experts:
        model = Qwen3ForCausalLM(Qwen3Config(**sizes))
    else:
        sizes |= {"num_experts": shape.experts, "num_experts_per_tok": 2, "moe_intermediate_size": shape.expert_ffn}
        sizes |= {"norm_topk_prob": True, "mlp_only_layers": [0]}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))
        names = [f"model.layers.1.mlp.experts.{i}" for i in range(shape.experts)]
        gate, up, down = (
            torch.stack([weights.pop(f"{name}.{x}_proj.weight") for name in names]) for x in ("gate", "up", "down")
        )
        weights["model.layers.1.mlp.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        weights["model.layers.1.mlp.experts.down_proj"] = down
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("norm" in name or (shape.tied and name == "lm_head.weight") for name in missing)
    with torch.no_grad():
        return model.float().eval()(TOKENS).logits


def test_the_tests_own_stacking_is_right(tmp_path: Path) -> None:
    shapes = [Shape(), Shape(tied=True), Shape(experts=4)]
    spawn(megatron_logits, (str(tmp_path), shapes), nprocs=1)
    for shape, logits in zip(shapes, torch.load(tmp_path / "logits.pt", weights_only=True), strict=True):
        torch.testing.assert_close(logits, transformers_logits(shape), atol=2e-5, rtol=1e-4)
