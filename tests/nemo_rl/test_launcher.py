# pyright: reportMissingImports=false
"""The launcher reaches NeMo-RL's own `main`, up to where it would take GPUs, with the translated configuration."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from nemo_rl_efficientrollout.cli import app
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.nemo_rl import patches
from nemo_rl_efficientrollout.nemo_rl.launcher import read_config
from nemo_rl_efficientrollout.patching import is_wrapped, unwrap
from tests.nemo_rl.source import require

require(
    "nemo_rl.algorithms.grpo",
    "nemo_rl.algorithms.ppo",
    "nemo_rl.algorithms.distillation",
    "nemo_rl.models.generation.vllm.vllm_generation",
)

RECIPES = Path(__file__).parents[2] / "recipes"
OURS = "policy.generation.backend=efficientrollout"


class SetupError(Exception):
    """Raised in place of NeMo-RL's `setup`, which builds clusters."""


@pytest.fixture(autouse=True)
def unpatched() -> Any:
    """NeMo-RL as it is, before and after."""
    yield
    for patch in patches.PATCHES:
        owner, name = patches._find(patch)
        if is_wrapped(owner, name):
            unwrap(owner, name)


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a job by the command and return the configuration with which NeMo-RL's `setup` was called."""
    import nemo_rl.algorithms.distillation as distillation
    import nemo_rl.algorithms.grpo as grpo
    import nemo_rl.algorithms.ppo as ppo
    import nemo_rl.algorithms.utils as utils
    import nemo_rl.data.utils as data
    import nemo_rl.distributed.virtual_cluster as cluster

    seen: list[Any] = []

    def setup(config: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(config)
        raise SetupError

    for algorithm in (grpo, ppo, distillation):
        monkeypatch.setattr(algorithm, "setup", setup)
    monkeypatch.setattr(cluster, "init_ray", lambda *args, **kwargs: None)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    monkeypatch.setattr(utils, "get_tokenizer", lambda *args, **kwargs: tokenizer)
    monkeypatch.setattr(data, "setup_response_data", lambda *args, **kwargs: (None, None, {}, {}))
    monkeypatch.setattr(sys, "argv", ["efficientrollout"])

    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["run", *arguments, f"logger.log_dir={tmp_path}"])
        assert isinstance(result.exception, SetupError), (result.exception, result.output[-2000:])
        return seen[-1].policy["generation"]

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("grpo", OURS),
        ("grpo", "--config", str(RECIPES / "grpo-qwen2.5-7b-1n8g-megatron-efficientrollout.yaml")),
        ("grpo", "--config", str(RECIPES / "grpo-llama3.1-8b-instruct-2n8g-async-1off-efficientrollout.yaml")),
        ("grpo", OURS, "grpo.use_dynamic_sampling=true", "grpo.reward_shaping.enabled=true"),
        ("ppo", OURS),
        (
            "ppo",
            "--config",
            str(RECIPES / "ppo-qwen2.5-1.5b-gsm8k-1n8g-megatron-valuetp2sp-dynbatch-efficientrollout.yaml"),
        ),
        ("distillation", OURS),
    ],
    ids=["grpo dtensor", "grpo megatron", "grpo async", "dapo", "ppo dtensor", "ppo megatron", "distillation"],
)
def test_setup_gets_the_translated_configuration(reach: Any, arguments: tuple[str, ...]) -> None:
    generation = reach(*arguments)
    assert generation["backend"] == "vllm"
    kwargs = generation["vllm_kwargs"]
    assert kwargs["speculative_config"]["num_speculative_tokens"] == 5
    assert kwargs["additional_config"]["efficientrollout"] == generation["efficientrollout"]
    assert generation["vllm_cfg"]["load_format"] == "dummy"  # the first refit brings the weights


def test_overrides_reach_the_settings(reach: Any) -> None:
    block = "policy.generation.efficientrollout"
    generation = reach("grpo", OURS, f"{block}.gate.mode=off", f"+{block}.draft_length.max=3", f"++{block}.strict=true")
    settings = generation["vllm_kwargs"]["additional_config"]["efficientrollout"]
    assert (settings["gate"]["mode"], settings["draft_length"]["max"], settings["strict"]) == ("off", 3, True)
    assert generation["vllm_kwargs"]["speculative_config"]["num_speculative_tokens"] == 3


def test_a_plain_run_is_nemo_rls_own(reach: Any) -> None:
    import nemo_rl.utils.logger as logger

    log_metrics = logger.Logger.log_metrics
    generation = reach("grpo")
    assert generation["backend"] == "vllm"
    assert not generation["vllm_kwargs"]
    assert logger.Logger.log_metrics is log_metrics


def test_what_is_patched_exists_in_this_nemo_rl() -> None:
    config = {"policy": {"generation": {"efficientrollout": {"refit": {"quantize_on": "engine"}}}}}
    patches.install(config)
    for patch in patches.PATCHES:
        assert is_wrapped(*patches._find(patch))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grpo", "policy.generatio.backend=x"), "did you mean 'policy.generation.backend'"),
        (("grpo", "policy.generation.backend=eficientrollout"), "did you mean 'efficientrollout'"),
        (("grpo", OURS, "policy.generation.efficientrollout.gate.mod=off"), "did you mean 'gate.mode'"),
        (("grpo", OURS, "policy.generation.vllm_cfg.pipeline_parallel_size=2"), "set it to 1"),
        (("grpo", OURS, "policy.max_total_sequence_length=6"), "max_model_len is 6"),
        (("grpo", "a=["), "a=["),
        (("grpo", "--verbose"), "unknown option '--verbose'"),
        (("gpro",), "did you mean 'grpo'"),
        (("grpo", "--config", "no/such.yaml"), "no/such.yaml"),
        (("grpo", "--config", __file__), "is no configuration of NeMo-RL"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    reach: Any, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(app, ["run", *arguments])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_text_that_looks_like_an_interpolation_survives(reach: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    base = RECIPES / "grpo-qwen2.5-7b-1n8g-megatron-efficientrollout.yaml"
    recipe.write_text(f"defaults: {base}\npolicy:\n  generation:\n    stop_strings: ['\\${{x}}']\n")
    assert read_config(recipe)["policy"]["generation"]["stop_strings"] == ["${x}"]
    assert reach("grpo", "--config", str(recipe))["stop_strings"] == ["${x}"]
