"""Options: small mistakes get one clear line before anything heavy is loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.grpo_math.__main__ import app
from examples.grpo_math.options import Options, settings_from
from nemo_rl_efficientrollout import Settings
from nemo_rl_efficientrollout.errors import SettingsError, UserError

GOOD = Options(
    problems=None,
    model=None,
    prompt=None,
    steps=1,
    prompts_per_step=1,
    group=2,
    max_new_tokens=8,
    temperature=1.0,
    lr=None,
    dtype="bfloat16",
    seed=0,
    name="a",
    runs_dir=Path("runs"),
    warm_start_steps=1,
    compare=False,
    settings=Settings(),
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "--steps is 0: give at least 1"),
        ({"group": 1}, "--group is 1: give at least 2"),
        ({"prompts_per_step": -3}, "--prompts-per-step is -3"),
        ({"max_new_tokens": 7}, "--max-new-tokens is 7"),
        ({"warm_start_steps": 0}, "--warm-start-steps is 0"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"lr": 0.0}, "--lr is 0.0"),
        ({"dtype": "int4"}, "--dtype is 'int4': give one of bfloat16"),
        ({"name": "../b"}, "--name is '../b'"),
        ({"name": ".cache"}, "--name is '.cache'"),
        ({"name": ""}, "--name is ''"),
        ({"prompt": "no place"}, "--prompt has no '{problem}'"),
    ],
)
def test_each_mistake_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(GOOD, **change)
    assert named in str(caught.value)


def test_settings_are_nested_and_typed() -> None:
    settings = settings_from(["gate.mode=fixed", "gate.draft_length=3", "draft_length.max=4", "strict=true"])
    assert settings.gate.mode == "fixed"
    assert settings.gate.draft_length == 3
    assert settings.draft_length.max == 4
    assert settings.strict is True


@pytest.mark.parametrize("bad", ["gate.mode", "=3", "gate..mode=off", "gate.mod=off", "gate.mode=sometimes"])
def test_bad_setting_is_named(bad: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from([bad])
    assert bad.split("=")[0] in str(caught.value)


def test_setting_below_a_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="'gate' was given a value"):
        settings_from(["gate=off", "gate.mode=off"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--group", "1"], "--group is 1"), (["--set", "gate.mod=off"], "gate.mod"), (["--steps", "x"], "'--steps'")],
)
def test_command_line_exits_with_2_and_one_line(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
