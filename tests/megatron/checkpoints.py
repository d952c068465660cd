"""Tiny models of `tests.megatron.shapes` as checkpoints for an engine."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.megatron.shapes import GROUPS, HEADS, HIDDEN, LAYERS, VOCAB, Shape, hf_weights


def save_policy(folder: Path, shape: Shape, seed: int) -> Path:
    """The dense Qwen3 model that has `hf_weights(shape, seed)`; norms are ones."""
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=shape.ffn,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=shape.head,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model: Any = transformers.Qwen3ForCausalLM(config)
    model.to(torch.bfloat16)
    missing, unexpected = model.load_state_dict(hf_weights(shape, seed), strict=False)
    assert not unexpected
    assert all("norm" in name or (shape.tied and name == "lm_head.weight") for name in missing)
    model.save_pretrained(folder)
    return folder
