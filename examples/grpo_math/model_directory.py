"""Is a directory a model that this job can train and serve? Answered before anything heavy is imported."""

import os
from pathlib import Path

from nemo_rl_efficientrollout.errors import UserError, shown
from nemo_rl_efficientrollout.files import read_json

SUPPORTED_TYPES = ("llama", "qwen2", "qwen3")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_model_directory(path: Path) -> None:
    """Refuse a directory that holds no supported model with weights and tokenizer.

    Raises:
        UserError: what is missing, and where.
    """
    if not os.path.isdir(path):  # a name that no file system takes is no folder either
        raise UserError(f"model directory '{path}' does not exist: give a directory with --model")
    config = read_json(path / "config.json", "--model takes a Hugging Face model directory")
    model_type = config.get("model_type")
    if model_type not in SUPPORTED_TYPES:
        raise UserError(
            f"{path / 'config.json'}: model_type is {shown(model_type)}; supported: {', '.join(SUPPORTED_TYPES)}"
        )
    if not any(path.glob("*.safetensors")):
        raise UserError(f"model directory '{path}' has no weights: expected *.safetensors files in it")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"model directory '{path}' has no tokenizer: expected one of {', '.join(_TOKENIZER_FILES)}")
