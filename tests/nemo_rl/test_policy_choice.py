"""Which policies get our worker, in which environment, and which are refused."""

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nemo_rl_efficientrollout.errors import SettingsError, UnsupportedError, UserError
from nemo_rl_efficientrollout.patching import unwrap
from tests.nemo_rl.source import import_policy_worker, require_nemo_rl

require_nemo_rl()

from nemo_rl.distributed import ray_actor_environment_registry as registry  # noqa: E402
from nemo_rl.models.policy import lm_policy  # noqa: E402
from nemo_rl.utils import venvs  # noqa: E402

from nemo_rl_efficientrollout.nemo_rl import trainer  # noqa: E402

# pyright: reportMissingImports=false

UV = "uv run --locked --extra mcore"
POLICY: dict[str, Any] = {
    "model_name": "none",
    "tokenizer": {},
    "megatron_cfg": {
        "enabled": True,
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 1,
        "context_parallel_size": 1,
    },
    "generation": {
        "backend": "vllm",
        "vllm_cfg": {"tensor_parallel_size": 1},
        "efficientrollout": {"refit": {"quantize_on": "trainer"}},
    },
    "dynamic_batching": {"enabled": False},
    "sequence_packing": {"enabled": False},
}
DTENSOR = {"enabled": True, "_v2": True, "tensor_parallel_size": 1, "context_parallel_size": 1}


def policy(**generation: Any) -> dict[str, Any]:
    config = copy.deepcopy(POLICY)
    config["generation"] |= generation
    return config


class Cluster:
    """As much of a RayVirtualCluster as `Policy` asks for before it makes workers."""

    _sorted_bundle_indices = None

    def world_size(self) -> int:
        return 2


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Our registration on the real `Policy`; the classes by which it makes workers."""
    names: list[str] = []
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(lm_policy, "RayQueue", lambda: None)
    monkeypatch.setattr(lm_policy, "RayWorkerBuilder", lambda name, *_, **__: names.append(name))
    monkeypatch.setattr(lm_policy, "RayWorkerGroup", lambda *_, **__: None)
    monkeypatch.setattr(lm_policy, "get_default_hf_config", lambda name: None)
    monkeypatch.setattr(lm_policy.FLOPTracker, "from_config", lambda *_: None)
    monkeypatch.setattr(registry, "ACTOR_ENVIRONMENT_REGISTRY", dict(registry.ACTOR_ENVIRONMENT_REGISTRY))
    trainer.register_policy_worker()
    yield names
    unwrap(lm_policy, "resolve_policy_worker_cls")


def make(config: dict[str, Any]) -> None:
    lm_policy.Policy(Cluster(), config, tokenizer=None)


def test_a_policy_that_sends_its_drafter_is_trained_by_our_worker(chosen: list[str]) -> None:
    registry.ACTOR_ENVIRONMENT_REGISTRY[trainer.STOCK_WORKER] = sys.executable
    make(policy())
    assert chosen == [trainer.WORKER]
    assert registry.get_actor_python_env(trainer.WORKER) == sys.executable


@pytest.mark.parametrize("block", [None, {}, {"refit": {"quantize_on": "engine"}}])
def test_any_other_policy_is_trained_as_ever(chosen: list[str], block: Any) -> None:
    make(policy(efficientrollout=block))
    dtensor = policy(efficientrollout=block)
    del dtensor["megatron_cfg"]
    make(dtensor | {"dtensor_cfg": DTENSOR})
    assert chosen == [
        trainer.STOCK_WORKER,
        "nemo_rl.models.policy.workers.dtensor_policy_worker_v2.DTensorPolicyWorkerV2",
    ]
    assert trainer.WORKER not in registry.ACTOR_ENVIRONMENT_REGISTRY


def test_our_worker_runs_in_the_environment_of_the_stock_one(
    chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    registry.ACTOR_ENVIRONMENT_REGISTRY[trainer.STOCK_WORKER] = UV

    def create(py_executable: str, venv_name: str) -> str:
        made.append((py_executable, venv_name))
        return f"venvs/{venv_name}/bin/python"

    monkeypatch.setattr(venvs, "create_local_venv_on_each_node", create)
    make(policy())
    assert made == [(UV, trainer.STOCK_WORKER)]
    assert registry.get_actor_python_env(trainer.WORKER) == f"venvs/{trainer.STOCK_WORKER}/bin/python"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"dtensor_cfg": DTENSOR, "megatron_cfg": {}}, UnsupportedError, "not DTensorPolicyWorkerV2"),
        ({"quant_cfg": "NVFP4_DEFAULT_CFG"}, UnsupportedError, "not MegatronQuantPolicyWorker"),
        (
            {"generation": policy(vllm_cfg={"tensor_parallel_size": 2})["generation"]},
            SettingsError,
            "parallel_size is 2",
        ),
    ],
)
def test_policies_that_cannot_send_are_refused(
    chosen: list[str], changes: dict[str, Any], error: type[UserError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        make(policy() | changes)
    assert "quantize_on to 'engine'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert chosen == []


def test_another_nemo_rl_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_policy, "resolve_policy_worker_cls", lambda default_cls: default_cls)
    with pytest.raises(UnsupportedError, match=r"lm_policy.resolve_policy_worker_cls' .* does not take config"):
        trainer.register_policy_worker()
    monkeypatch.delattr(lm_policy, "resolve_policy_worker_cls")
    with pytest.raises(UnsupportedError, match="resolve_policy_worker_cls' of this NeMo-RL does not exist"):
        trainer.register_policy_worker()


def test_our_worker_is_a_ray_actor_with_the_stock_ones_methods() -> None:
    ours = import_policy_worker()
    stock = ours.stock
    assert issubclass(ours.MegatronPolicyWorkerImpl, stock.MegatronPolicyWorkerImpl)
    module, _, name = trainer.WORKER.rpartition(".")
    assert module == ours.__name__
    actor, theirs = getattr(ours, name), stock.MegatronPolicyWorker
    assert actor._default_options == theirs._default_options
    assert actor.configure_worker(1) == theirs.configure_worker(1)


@pytest.mark.parametrize("transport", trainer.CARRY_NO_DRAFTER)
def test_transports_that_carry_no_drafter_are_refused_before_anything_is_loaded(transport: str) -> None:
    worker = import_policy_worker().MegatronPolicyWorkerImpl
    with pytest.raises(SettingsError, match=f"refit_transport is '{transport}'.*quantize_on to 'engine'"):
        worker(policy(refit_transport=transport), tokenizer=None, worker_sharding_annotations=None)


def test_nemo_rls_transports_are_all_known() -> None:
    from nemo_rl.models.generation.vllm.config import VLLM_SPARSE_REFIT_TRANSPORTS

    assert set(trainer.CARRY_NO_DRAFTER) > VLLM_SPARSE_REFIT_TRANSPORTS
