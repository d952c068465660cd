"""What is replaced in NeMo-RL, on stand-ins of its modules; the real ones are in tests/nemo_rl."""

import sys
from types import ModuleType
from typing import Any

import pytest

from nemo_rl_efficientrollout.alarm import PATIENCE
from nemo_rl_efficientrollout.engine.totals import PREFIX
from nemo_rl_efficientrollout.errors import UnsupportedError
from nemo_rl_efficientrollout.nemo_rl import patches

CONFIG = {"policy": {"generation": {"efficientrollout": {"refit": {"quantize_on": "engine"}}}}}


class Run:
    def __init__(self) -> None:
        self.alerts: list[str] = []

    def alert(self, title: str, text: str, level: str) -> None:
        self.alerts.append(text)


class WandbLogger:
    def __init__(self) -> None:
        self.run = Run()


class Logger:
    def __init__(self) -> None:
        self.wandb_logger = WandbLogger()
        self.logged: list[tuple[str, dict[str, Any]]] = []

    def log_metrics(self, metrics: Any, step: int, prefix: str = "", step_finished: bool = False) -> None:
        self.logged.append((prefix, dict(metrics)))


def compute_spec_decode_metrics(start_counters: Any, end_counters: Any) -> dict[str, float]:
    return {"vllm/spec_num_drafts": 1.0}


def configure_generation_config(
    config: Any, tokenizer: Any, is_eval: bool = False, has_refit_draft_weights: bool = False
) -> Any:
    return config | {"load_format": "dummy" if has_refit_draft_weights else "auto"}


@pytest.fixture
def nemo_rl(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Modules with the names that are patched, fresh for every test."""
    names = {
        "nemo_rl": {},
        "nemo_rl.utils": {},
        "nemo_rl.utils.logger": {"Logger": type("Logger", (Logger,), {"log_metrics": Logger.log_metrics})},
        "nemo_rl.models": {},
        "nemo_rl.models.generation": {"configure_generation_config": configure_generation_config},
        "nemo_rl.models.generation.vllm": {},
        "nemo_rl.models.generation.vllm.vllm_generation": {"compute_spec_decode_metrics": compute_spec_decode_metrics},
    }
    modules = {}
    for name, content in names.items():
        modules[name] = ModuleType(name)
        modules[name].__path__ = []
        vars(modules[name]).update(content)
        monkeypatch.setitem(sys.modules, name, modules[name])
    return modules


def test_metrics_join_nemo_rls_and_go_where_its_refit_metrics_go(nemo_rl: dict[str, Any]) -> None:
    patches.install(CONFIG)
    end = {f"{PREFIX}engines": 1.0, f"{PREFIX}requantize_microseconds": 2e6}
    found = nemo_rl["nemo_rl.models.generation.vllm.vllm_generation"].compute_spec_decode_metrics({}, end)
    assert found["vllm/spec_num_drafts"] == 1.0
    logger = nemo_rl["nemo_rl.utils.logger"].Logger()
    logger.log_metrics(found, 1, prefix="train", step_finished=True)
    assert logger.logged[0] == ("", {"refit/requantize_s": 2.0})
    prefix, rest = logger.logged[1]
    assert prefix == "train"
    assert "refit/requantize_s" not in rest
    assert rest["efficientrollout/engines_behind"] == 0.0


def test_other_metrics_pass_untouched(nemo_rl: dict[str, Any]) -> None:
    patches.install(CONFIG)
    logger = nemo_rl["nemo_rl.utils.logger"].Logger()
    logger.log_metrics({"reward": 1.0}, 1, "train")
    logger.log_metrics({"efficientrollout/x": 1.0}, 1, prefix="validation")
    assert logger.logged == [("train", {"reward": 1.0}), ("validation", {"efficientrollout/x": 1.0})]


def test_the_alarm_reaches_the_log_and_wandb(nemo_rl: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    patches.install(CONFIG)
    logger = nemo_rl["nemo_rl.utils.logger"].Logger()
    for step in range(PATIENCE):
        logger.log_metrics({"efficientrollout/engines_behind": 1.0}, step, prefix="train")
    (alert,) = logger.wandb_logger.run.alerts
    assert alert.startswith(f"step {PATIENCE - 1}: 1 engines have no drafter")
    assert alert in capsys.readouterr().out
    ringing = [metrics["efficientrollout/alarms"] for _, metrics in logger.logged]
    assert ringing == [0.0] * (PATIENCE - 1) + [1.0]


@pytest.mark.parametrize(("config", "load_format"), [({}, "auto"), ({"efficientrollout": {}}, "dummy")])
def test_only_our_engines_start_without_reading_the_checkpoint(
    nemo_rl: dict[str, Any], config: dict[str, Any], load_format: str
) -> None:
    patches.install(CONFIG)
    configure = nemo_rl["nemo_rl.models.generation"].configure_generation_config
    assert configure(config, None, has_refit_draft_weights=False)["load_format"] == load_format
    assert configure(config, None, is_eval=True)["load_format"] == "auto"  # nothing refits it


def test_twice_is_once(nemo_rl: dict[str, Any]) -> None:
    patches.install(CONFIG)
    once = nemo_rl["nemo_rl.utils.logger"].Logger.log_metrics
    patches.install(CONFIG)
    assert nemo_rl["nemo_rl.utils.logger"].Logger.log_metrics is once


def test_an_unknown_nemo_rl_is_named_and_left_whole(nemo_rl: dict[str, Any]) -> None:
    generation = nemo_rl["nemo_rl.models.generation.vllm.vllm_generation"]
    del nemo_rl["nemo_rl.models.generation"].configure_generation_config
    with pytest.raises(
        UnsupportedError, match=r"'nemo_rl\.models\.generation\.configure_generation_config' .*does not exist"
    ):
        patches.install(CONFIG)
    assert generation.compute_spec_decode_metrics is compute_spec_decode_metrics


def test_changed_arguments_are_named(nemo_rl: dict[str, Any]) -> None:
    nemo_rl["nemo_rl.utils.logger"].Logger.log_metrics = lambda logger, values, step, prefix: None
    with pytest.raises(UnsupportedError, match=r"'Logger\.log_metrics' .*does not take metrics"):
        patches.install(CONFIG)
