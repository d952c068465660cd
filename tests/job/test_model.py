"""Model directories: what is missing is named; what is there can be loaded."""

import json
from pathlib import Path

import pytest

from examples.grpo_math.model import load_policy
from examples.grpo_math.model_directory import check_model_directory
from examples.grpo_math.warm_start import WarmStart, warm_started_model
from nemo_rl_efficientrollout.errors import UserError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warm_started_model(tmp_path_factory.mktemp("cache"), WarmStart(steps=1, batch=4))


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_good_directory_loads_in_float32(good: Path) -> None:
    check_model_directory(good)
    model, tokenizer = load_policy(good)
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
    assert tokenizer.eos_token == "<eos>"


def test_missing_directory() -> None:
    with pytest.raises(UserError, match="'/nowhere' does not exist"):
        check_model_directory(Path("/nowhere"))


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("config.json", "cannot read .*config.json: No such file"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_missing_file_is_named(copy: Path, file: str, named: str) -> None:
    (copy / file).unlink()
    with pytest.raises(UserError, match=named):
        check_model_directory(copy)


@pytest.mark.parametrize(
    ("config", "named"),
    [("{", "not valid JSON"), ("[]", "JSON object"), ('{"model_type": "gpt2"}', "llama, qwen2, qwen3")],
)
def test_bad_config_is_named(copy: Path, config: str, named: str) -> None:
    (copy / "config.json").write_text(config)
    with pytest.raises(UserError, match=named):
        check_model_directory(copy)


def test_cut_off_weights_are_one_clear_line(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    check_model_directory(copy)
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_policy(copy)
    assert len(str(caught.value).splitlines()) == 1


def test_tokenizer_without_end_token(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="no end token"):
        load_policy(copy)
