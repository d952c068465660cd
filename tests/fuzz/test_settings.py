"""Settings: mappings, OmegaConf nodes, `key=value` texts, and NeMo-RL configurations that hold them."""

import json
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_rl_efficientrollout import engine_kwargs, read_settings
from nemo_rl_efficientrollout.config import parse_overrides, read_gate
from nemo_rl_efficientrollout.doctor.job import read_job
from nemo_rl_efficientrollout.nemo_rl import launcher
from nemo_rl_efficientrollout.nemo_rl.trainer import sender_settings
from nemo_rl_efficientrollout.nemo_rl.translation import overrides, translated
from tests.proof import Proof

from .documents import NEMO_RL, SETTINGS
from .oracle import counted
from .wild import broken_text, choice, deep, objects, profile, scalars, spoiled, words

KEYS = [
    *("drafter.format", "drafter.lm_head", "refit.refresh", "draft_length.max", "draft_length.max_requests", "strict"),
    *("gate.mode", "gate.draft_length", "gate.seed", "gate.calibration", "gate", "drafter.format.x", "gte.mode", ""),
    *("a." * 3000, ".", "gate.", ".gate", "gate..mode", "drafter", "__class__", "gate.seed" + ".a" * 3000),
]
VALUES = [
    "int8",
    "off",
    "fixed",
    "3",
    "true",
    "null",
    "{}",
    '{"a": 1}',
    "[1]",
    "NaN",
    "1e999",
    "[" * 5000,
    "9" * 5000,
    "=",
]
pairs = st.one_of(
    st.builds("{}={}".format, choice(KEYS), st.one_of(choice(VALUES), words, scalars.map(str))),
    words,
)


def test_mappings(proof: Proof, tmp_path: Path) -> None:
    with counted("settings: mapping", tmp_path, proof) as tally:

        @profile(proof, full=14_000, quick=400)
        @given(st.one_of(spoiled(SETTINGS, objects), objects), st.sampled_from((1, 5, 32)))
        def run(source: Any, longest: int) -> None:
            def read() -> None:
                json.dumps(engine_kwargs("model", source))
                read_settings(source)

            tally.judge(read)
            tally.judge(lambda: read_gate(source.get("gate") if isinstance(source, dict) else source, longest))

        run()


def test_omegaconf(proof: Proof, tmp_path: Path) -> None:
    with counted("settings: OmegaConf", tmp_path, proof) as tally:

        @profile(proof, full=4_000, quick=100)
        @given(spoiled(SETTINGS, st.one_of(scalars, st.sampled_from(("${nothing}", "???", "${gate.seed}", "${a:b}")))))
        def run(source: Any) -> None:
            try:
                node = OmegaConf.create(source)
            except (
                OmegaConfBaseException,
                ValueError,
                TypeError,
                AttributeError,
            ):  # OmegaConf's own, before it is ours
                return
            tally.judge(lambda: read_settings(node))

        run()


def test_overrides(proof: Proof, tmp_path: Path) -> None:
    with counted("settings: key=value", tmp_path, proof) as tally:

        @profile(proof, full=14_000, quick=400)
        @given(st.lists(pairs, max_size=4))
        def run(given_pairs: list[str]) -> None:
            tally.judge(lambda: read_settings(parse_overrides(given_pairs)))

        run()


def test_translation(proof: Proof, tmp_path: Path) -> None:
    with counted("NeMo-RL configuration", tmp_path, proof) as tally:

        @profile(proof, full=12_000, quick=300)
        @given(spoiled(NEMO_RL, objects, most=4))
        def run(config: Any) -> None:
            if not isinstance(config, dict):
                return

            def read() -> None:
                translated(config)
                overrides(config)

            tally.judge(read)
            policy = config.get("policy")
            if isinstance(policy, Mapping):
                tally.judge(lambda: sender_settings(policy))

        run()


class OverridesError(Exception):
    """As NeMo-RL's."""


@pytest.fixture
def nemo_rl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for NeMo-RL's functions that read a configuration, which are OmegaConf's and Hydra's."""

    def load_config(path: Path) -> Any:
        return OmegaConf.load(path)

    def parse_hydra_overrides(config: Any, given_overrides: list[str]) -> Any:
        try:
            for override in given_overrides:
                key, separator, value = override.lstrip("+~").partition("=")
                if not separator or not key:
                    raise OverridesError(f"Failed to parse Hydra overrides: mismatched input {override!r}\nat")
                if not override.startswith("+") and OmegaConf.select(config, key) is None:
                    raise OverridesError(f"Could not override '{key}'.\nKey is not in struct")
                OmegaConf.update(config, key, value, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, AssertionError) as error:
            raise OverridesError(str(error) or "no") from error
        return config

    module: Any = ModuleType("nemo_rl.utils.config")
    module.load_config, module.parse_hydra_overrides = load_config, parse_hydra_overrides
    module.OverridesError, module.register_omegaconf_resolvers = OverridesError, lambda: None
    package = ModuleType("nemo_rl")
    package.__path__ = []
    package.__spec__ = ModuleSpec("nemo_rl", None, is_package=True)
    for name, value in {
        "nemo_rl": package,
        "nemo_rl.utils": ModuleType("nemo_rl.utils"),
        module.__name__: module,
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    (tmp_path / "examples" / "configs").mkdir(parents=True)
    monkeypatch.setenv(launcher.DIRECTORY_VARIABLE, str(tmp_path))


YAML_VALUES = st.one_of(
    scalars,
    st.sampled_from(("${nothing}", "${policy.model_name}", "???")),
    st.builds(deep, st.just(200), scalars, st.sampled_from((None, "a"))),
)
HYDRA = [
    *("policy.generation.efficientrollout.gate.mode=off", "policy.generation.efficientrollout.draft_length.max=40"),
    *("policy.generation.backend=vllm", "policy.generation.backend=nobody", "policy.generation=1", "policy=null"),
    *("+a.b=1", "~policy.model_name", "policy.modl_name=x", "=", "a", "policy.generation.vllm_cfg.max_model_len=x"),
]


@pytest.mark.usefixtures("nemo_rl")
def test_launcher(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = json.dumps(NEMO_RL)
    with counted("NeMo-RL configuration file and overrides", tmp_path, proof) as tally:

        @profile(proof, full=5_000, quick=60)
        @given(
            st.one_of(spoiled(NEMO_RL, YAML_VALUES).map(lambda value: json.dumps(value).encode()), broken_text(text)),
            st.lists(st.one_of(st.sampled_from(HYDRA), words), max_size=3),
        )
        def run(data: bytes, given_overrides: list[str]) -> None:
            file.write_bytes(data)

            def read() -> None:
                read_job(file, given_overrides)
                json.dumps(translated(launcher.read_config(file, given_overrides)), default=str)

            tally.judge(read)

        run()
