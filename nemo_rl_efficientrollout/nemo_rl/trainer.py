"""`refit.quantize_on: trainer`: which policies send their drafter, and which of NeMo-RL's workers does it.

NeMo-RL's `Policy` picks a Ray actor class by name. For such a policy it is given ours, in the environment of NeMo-RL's
own (https://github.com/NVIDIA-NeMo/RL, nemo_rl/models/policy/lm_policy.py and nemo_rl/utils/venvs.py).
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from typing import Any

from ..config import KEY, Settings, read_settings
from ..errors import SettingsError, UnsupportedError, shown
from ..patching import is_wrapped, wrap
from .blocks import block, whole
from .expected import expect_parameters

STOCK_WORKER = "nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker"
WORKER = "nemo_rl_efficientrollout.nemo_rl.megatron_policy_worker.MegatronPolicyWorker"
BLOCK = f"policy.generation.{KEY}"
CURE = f"set {BLOCK}.refit.quantize_on to 'engine'"
CARRY_NO_DRAFTER = ("nccl_reshard", "vllm_s3_sparse", "vllm_zmq_sparse")
"""Values of `refit_transport` that move the policy's own parameters and cannot take further tensors along."""


def sender_settings(policy: Mapping[str, Any]) -> Settings | None:
    """The settings of a policy that sends its drafter; None for one that does not.

    Args:
        policy: NeMo-RL's `policy` block, which has ours at `generation.efficientrollout`.

    Raises:
        SettingsError: ours is wrong, or the drafter cannot travel the way that is configured.
    """
    generation = block(policy, "generation", "policy")
    own = generation.get(KEY)
    settings = read_settings(own)
    if own is None or settings.refit.quantize_on != "trainer":
        return None
    transport = generation.get("refit_transport")
    if transport in CARRY_NO_DRAFTER:
        raise SettingsError(
            f"policy.generation.refit_transport is '{transport}', which cannot carry the drafter that"
            f" refit.quantize_on 'trainer' sends: {CURE}, or set refit_transport to null"
        )
    backend = generation.get("backend", "vllm")
    if backend != "vllm":
        raise SettingsError(f"policy.generation.backend is {shown(backend)}, which takes no drafter: {CURE}")
    vllm = block(generation, "vllm_cfg", "policy.generation")
    ranks = whole(vllm, "tensor_parallel_size", "policy.generation.vllm_cfg", 1)
    if ranks > 1:
        raise SettingsError(
            f"refit.quantize_on is 'trainer', which sends whole weights, but policy.generation.vllm_cfg."
            f"tensor_parallel_size is {ranks}: {CURE}"
        )
    return settings


def register_policy_worker() -> None:
    """Let `Policy` train with our worker where `refit.quantize_on` is 'trainer', and as always elsewhere.

    Call it in the process that makes the policy, before it does. Safe to call again.

    Raises:
        UnsupportedError: this NeMo-RL chooses its workers in another way.
    """
    from nemo_rl.distributed import ray_actor_environment_registry as registry
    from nemo_rl.models.policy import lm_policy
    from nemo_rl.utils import venvs

    expect_parameters(lm_policy, "resolve_policy_worker_cls", "default_cls config", CURE)
    expect_parameters(venvs, "make_actor_runtime_env", "actor_class_fqn", CURE)
    if STOCK_WORKER not in getattr(registry, "ACTOR_ENVIRONMENT_REGISTRY", {}):
        raise UnsupportedError(f"this NeMo-RL has no environment for '{STOCK_WORKER}': {CURE}")
    if not is_wrapped(lm_policy, "resolve_policy_worker_cls"):
        wrap(lm_policy, "resolve_policy_worker_cls", _choosing_ours)


def _choosing_ours(original: Callable[..., str]) -> Callable[..., str]:
    def resolve_policy_worker_cls(default_cls: str, config: Mapping[str, Any]) -> str:
        chosen = original(default_cls, config)
        if sender_settings(config) is None:
            return chosen
        if chosen != STOCK_WORKER:
            raise UnsupportedError(
                f"refit.quantize_on is 'trainer', which needs NeMo-RL's Megatron policy (policy.megatron_cfg.enabled)"
                f" without policy.quant_cfg, not {chosen.rpartition('.')[2]}: {CURE}"
            )
        _share_environment()
        return WORKER

    return resolve_policy_worker_cls


def _share_environment() -> None:
    """Run our worker with the interpreter of NeMo-RL's own, made on every node if it is not there yet.

    NeMo-RL names an environment after its actor: under its own name, ours would get a new one without this package.
    """
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.utils.venvs import make_actor_runtime_env

    ACTOR_ENVIRONMENT_REGISTRY[WORKER] = make_actor_runtime_env(STOCK_WORKER)["py_executable"]
