"""Tiny causal language models for tests, built on the spot: real architectures, random weights."""

from pathlib import Path

import torch
import transformers

VOCABULARY = 256


def save_tiny_model(
    directory: Path,
    family: str = "qwen3",
    *,
    vocabulary: int = VOCABULARY,
    hidden: int = 128,
    layers: int = 2,
    tied: bool = False,
    seed: int = 0,
    sharpness: float = 1.0,
) -> Path:
    """Write a random `family` ('llama', 'qwen2', 'qwen3', 'gemma3', 'mistral', 'mixtral', 'qwen3_moe') model.

    `sharpness` scales the output head: random heads give flat distributions, which test little.
    """
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": max(1, hidden // 64),
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "qwen2":
        del shape["head_dim"]
    if family in ("qwen3_moe", "mixtral"):
        shape |= {"num_experts_per_tok": 2, ("num_experts" if family == "qwen3_moe" else "num_local_experts"): 4}
    if family == "qwen3_moe":
        shape |= {"moe_intermediate_size": hidden, "norm_topk_prob": True}
    if family in ("mistral", "gemma3"):
        shape |= {"sliding_window": 64}
    if family == "gemma3":
        shape |= {"layer_types": ["sliding_attention", "full_attention"] * (layers // 2), "pad_token_id": 0}
    prefix = {"qwen3_moe": "Qwen3Moe"}.get(family, family.capitalize())
    torch.manual_seed(seed)
    config = getattr(transformers, "Gemma3TextConfig" if family == "gemma3" else f"{prefix}Config")(**shape)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
        model.get_output_embeddings().weight.mul_(sharpness)
    model.save_pretrained(directory)
    return directory


def spelling(token: int) -> str:
    """Two letters. Texts are these without spaces, so that a string can begin in one token and end in the next."""
    return chr(ord("a") + token // 16) + chr(ord("A") + token % 16)


def save_tokenizer(directory: Path, vocabulary: int = VOCABULARY, eos: int | None = None) -> None:
    """Write a tokenizer beside a model, which spells every token by `spelling`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = models.WordLevel({spelling(token): token for token in range(vocabulary)}, unk_token=spelling(0))
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(".{2}"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {"unk_token": spelling(0), "eos_token": None if eos is None else spelling(eos)}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under their Hugging Face names."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")
