# pyright: reportMissingImports=false
"""Every recipe loads through NeMo-RL's own functions and types, and differs from its twin in speculation alone."""

from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.nemo_rl.launcher import DIRECTORY_VARIABLE, SCRIPTS, nemo_rl_directory, read_config
from nemo_rl_efficientrollout.nemo_rl.translation import overrides, translated
from tests.nemo_rl.source import require

require("nemo_rl.algorithms.grpo", "nemo_rl.algorithms.ppo")

from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from nemo_rl.algorithms import grpo, ppo  # noqa: E402
from nemo_rl.utils.config import load_config, register_omegaconf_resolvers  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
PLAIN = [recipe for recipe in RECIPES if not recipe.stem.endswith("-efficientrollout")]


def own_name_aside(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Without the places where a recipe says its name."""
    checkpointing, logger = dict(config["checkpointing"]), dict(config["logger"])
    assert name in checkpointing.pop("checkpoint_dir")
    assert name in logger.pop("log_dir")
    wandb = dict(logger["wandb"])
    assert wandb.pop("name") == name
    return config | {"checkpointing": checkpointing, "logger": logger | {"wandb": wandb}}


def test_there_are_recipes_and_each_has_a_twin() -> None:
    assert len(PLAIN) >= 7
    names = {recipe.stem for recipe in RECIPES}
    for recipe in PLAIN:
        assert f"{recipe.stem}-efficientrollout" in names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_loads_by_nemo_rls_own_functions(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(nemo_rl_directory()))
    register_omegaconf_resolvers()
    loaded = OmegaConf.to_container(load_config(recipe), resolve=True)
    algorithm = ppo if recipe.stem.startswith("ppo") else grpo
    config = algorithm.MasterConfig(**loaded)  # type: ignore[arg-type]
    assert config.policy["model_name"]
    assert loaded == read_config(recipe)


@pytest.mark.parametrize("recipe", PLAIN, ids=lambda recipe: recipe.stem)
def test_the_twin_differs_in_speculation_alone(recipe: Path) -> None:
    twin = f"{recipe.stem}-efficientrollout"
    plain, fast = read_config(recipe), read_config(recipe.with_stem(twin))
    assert translated(plain) == plain
    result = translated(fast)
    generation = result["policy"]["generation"]
    for name in ("speculative_config", "scheduler_cls", "additional_config"):
        assert name not in plain["policy"]["generation"]["vllm_kwargs"]
        del generation["vllm_kwargs"][name]
    del generation["efficientrollout"]
    assert own_name_aside(result, twin) == own_name_aside(plain, recipe.stem)


@pytest.mark.parametrize("recipe", PLAIN, ids=lambda recipe: recipe.stem)
def test_overrides_give_nemo_rls_own_script_the_same(recipe: Path) -> None:
    fast = read_config(recipe.with_stem(f"{recipe.stem}-efficientrollout"))
    lines = overrides(fast)
    OverridesParser.create().parse_overrides(lines)
    mine = translated(fast)["policy"]["generation"]
    theirs = read_config(recipe, lines)["policy"]["generation"]
    assert theirs == mine


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_every_job_exists_and_has_the_default_that_nemo_rl_gives_it(script: Any) -> None:
    examples = nemo_rl_directory() / "examples"
    source = (examples / script.file).read_text()
    assert (examples / "configs" / script.config).is_file()
    for part in Path(script.config).parts:
        assert f'"{part}"' in source
