"""Runs NeMo-RL's own scripts on a translated configuration. Nothing of them is copied."""

import importlib
import importlib.util
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import KEY
from ..errors import SettingsError, UserError, nearest
from ..files import DEEPEST, is_deeper
from .translation import find_generation, is_ours, translated

DIRECTORY_VARIABLE = "NEMO_RL_DIR"
"""Where NeMo-RL's source lies; recipes inherit from its configurations by this variable."""


class Script(NamedTuple):
    """One of NeMo-RL's entry points, below its `examples/`."""

    file: str
    config: str
    """What it reads when it is given none, below `examples/configs/`."""


SCRIPTS = {
    "grpo": Script("run_grpo.py", "grpo_math_1B.yaml"),
    "grpo-single-controller": Script("run_grpo_single_controller.py", "grpo_math_1B_megatron_single_controller.yaml"),
    "grpo-sliding-puzzle": Script("run_grpo_sliding_puzzle.py", "grpo_sliding_puzzle.yaml"),
    "vlm-grpo": Script("run_vlm_grpo.py", "vlm_grpo_3B.yaml"),
    "ppo": Script("run_ppo.py", "ppo_math_1B.yaml"),
    "distillation": Script("run_distillation.py", "distillation_math.yaml"),
    "eval": Script("run_eval.py", "evals/eval.yaml"),
}
"""What generates through vLLM. DAPO, GSPO, async GRPO and async PPO are configurations of these."""


def script_named(name: str) -> Script:
    """Raises UserError naming the nearest one."""
    if name not in SCRIPTS:
        raise UserError(f"unknown job '{name}'{nearest(name, SCRIPTS)}; known: {', '.join(SCRIPTS)}")
    return SCRIPTS[name]


def nemo_rl_directory() -> Path:
    """The root of NeMo-RL's source tree, found by its package. Raises UserError."""
    if DIRECTORY_VARIABLE in os.environ:
        root = Path(os.environ[DIRECTORY_VARIABLE])
    else:
        found = importlib.util.find_spec("nemo_rl")
        if found is None or not found.submodule_search_locations:
            raise UserError("NeMo-RL is not installed here: run this in its container or environment")
        root = Path(next(iter(found.submodule_search_locations))).parent
    if not (root / "examples" / "configs").is_dir():
        raise UserError(
            f"{root} has no examples/configs, expected NeMo-RL's source tree: set {DIRECTORY_VARIABLE} to where it lies"
        )
    return root


def read_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A NeMo-RL configuration, inherited, overridden and resolved by NeMo-RL's own functions, not yet translated.

    Keys of `policy.generation.efficientrollout` need no `+` although NeMo-RL's configurations do not have them.

    Raises:
        UserError: an unknown key or a file that cannot be read, in one line.
    """
    try:
        theirs = importlib.import_module("nemo_rl.utils.config")
    except ImportError as error:
        raise UserError(
            f"NeMo-RL cannot be imported here ({error}): run this in its container or environment"
        ) from None
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    theirs.register_omegaconf_resolvers()
    os.environ.setdefault(DIRECTORY_VARIABLE, str(nemo_rl_directory()))
    try:
        config = theirs.load_config(path)
    # A ValueError is a number of thousands of digits, or text that is not UTF-8.
    except (OSError, AssertionError, ValueError, RecursionError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path} is no configuration of NeMo-RL: {_first_line(error)}") from None
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} is no configuration of NeMo-RL: it holds no keys and values")
    try:
        changed = theirs.parse_hydra_overrides(config, [_added(override) for override in overrides])
        resolved = OmegaConf.to_container(changed, resolve=True)
    except theirs.OverridesError as error:
        raise SettingsError(_explained(str(error), overrides, _keys(OmegaConf.to_container(config)))) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_first_line(error)}") from None
    assert isinstance(resolved, dict)  # as a DictConfig is
    if is_deeper(resolved, DEEPEST):
        raise UserError(f"{path} is nested more than {DEEPEST} levels deep")
    return {str(key): value for key, value in resolved.items()}


def run(script: Script, config: dict[str, Any], name: str) -> None:
    """Run a script as its own program would, in this process, on `config` translated.

    Raises:
        SettingsError: from the translation.
        UserError: NeMo-RL lacks the script, or what has to be patched in it.
    """
    file = nemo_rl_directory() / "examples" / script.file
    if not file.is_file():
        raise UserError(f"{file} does not exist: this NeMo-RL has no such job")
    where, generation = find_generation(config)
    final = translated(config)
    if generation is not None and is_ours(generation, where):
        from . import patches  # only then: a plain run runs NeMo-RL as it is

        patches.install(final)
    from omegaconf import OmegaConf

    with tempfile.TemporaryDirectory() as folder:
        translated_file = Path(folder) / f"{name}.yaml"
        OmegaConf.save(OmegaConf.create(_unresolvable(final)), translated_file)
        given, sys.argv = sys.argv, [str(file), "--config", str(translated_file)]
        try:
            runpy.run_path(str(file), run_name="__main__")
        finally:
            sys.argv = given


def _added(override: str) -> str:
    """An override of our own block as one that may add."""
    for where in ("policy.generation", "generation"):
        if override.startswith(f"{where}.{KEY}"):
            return f"++{override}"
    return override


def _unresolvable(value: Any) -> Any:
    """The value with `${` escaped: it was resolved once, and must not be again."""
    if isinstance(value, dict):
        return {key: _unresolvable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unresolvable(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _explained(message: str, overrides: Sequence[str], known: list[str]) -> str:
    """The line of Hydra's error that says what is wrong, and the nearest key to the override that it means."""
    text = _first_line(message).removeprefix("Failed to parse Hydra overrides: ")
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if text.startswith("Could not override") and key not in known and key in text:
            return f"override '{override}': there is no key '{key}'{nearest(key, known)}"
    return f"overrides {' '.join(overrides)}: {text}"


def _keys(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return []
    return [name for key, item in value.items() for name in (f"{prefix}{key}", *_keys(item, f"{prefix}{key}."))]


def _first_line(error: BaseException | str) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
