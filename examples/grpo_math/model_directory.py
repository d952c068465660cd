"""Is a directory a model that this job can train and serve? Answered before anything heavy is imported."""

import json
from pathlib import Path
from typing import Any

from nemo_rl_efficientrollout.errors import UserError

SUPPORTED_TYPES = ("llama", "qwen2", "qwen3")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_model_directory(path: Path) -> None:
    """Refuse a directory that holds no supported model with weights and tokenizer.

    Raises:
        UserError: what is missing, and where.
    """
    if not path.is_dir():
        raise UserError(f"model directory '{path}' does not exist: give a directory with --model")
    model_type = _read_config(path / "config.json").get("model_type")
    if model_type not in SUPPORTED_TYPES:
        raise UserError(
            f"{path / 'config.json'}: model_type is {model_type!r}; supported: {', '.join(SUPPORTED_TYPES)}"
        )
    if not any(path.glob("*.safetensors")):
        raise UserError(f"model directory '{path}' has no weights: expected *.safetensors files in it")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"model directory '{path}' has no tokenizer: expected one of {', '.join(_TOKENIZER_FILES)}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing: --model takes a Hugging Face model directory") from None
    except ValueError as error:
        raise UserError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"'{path}' must hold a JSON object, got {type(config).__name__}")
    return config
