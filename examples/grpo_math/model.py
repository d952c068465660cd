"""The policy: loading it from a checked directory."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nemo_rl_efficientrollout.errors import UserError


def load_policy(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy in float32 for training, and its tokenizer.

    Raises:
        UserError: the files are there but cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"model directory '{path}' cannot be loaded: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in '{path}' has no end token: set eos_token in tokenizer_config.json")
    return model, tokenizer


def describe_model(path: Path, model: PreTrainedModel, dtype: str) -> dict[str, Any]:
    """What the report says of the policy; `dtype` is the engine's."""
    return {
        "path": str(path),
        "type": model.config.model_type,
        "parameters": model.num_parameters(),
        "dtype": dtype,
    }
