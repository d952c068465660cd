# pyright: reportMissingImports=false
"""NeMo-RL's configuration of generation, made from its own example as its GRPO script makes it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nemo_rl_efficientrollout.config import read_settings
from nemo_rl_efficientrollout.nemo_rl.translation import with_arguments

PAD = 0
CONTEXT = 256
NEW_TOKENS = 24


def vllm_kwargs(model: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What `policy.generation.vllm_kwargs` must hold to turn this package on."""
    return with_arguments({}, str(model), read_settings(settings))


def generation_config(
    model: Path, settings: dict[str, Any] | None, *overrides: str, trained: bool = True, plug_in: str = "", **vllm: Any
) -> dict[str, Any]:
    """`policy.generation` of a run that generates with `model`.

    Args:
        settings: this package's; None for plain vLLM.
        overrides: as on NeMo-RL's command line, below `policy.generation`.
        trained: weights come by refit, the engine starts from random ones; else it loads `model`.
        plug_in: the checkpoint engine that weights come by, `module:name`; then the trainer is elsewhere.
        vllm: further arguments of the engine.
    """
    import nemo_rl
    from nemo_rl.models.generation import configure_generation_config
    from nemo_rl.utils.config import load_config, parse_hydra_overrides, register_omegaconf_resolvers
    from omegaconf import OmegaConf

    register_omegaconf_resolvers()
    example = load_config(Path(nemo_rl.__file__).parents[1] / "examples/configs/grpo_math_1B.yaml")
    of_policy = [f"model_name={model}", f"max_total_sequence_length={CONTEXT}", "precision=float32"]
    of_generation = [f"generation.{override}" for override in (*OVERRIDES, *overrides)]
    changed = parse_hydra_overrides(example, [f"++policy.{override}" for override in of_policy + of_generation])
    config: Any = OmegaConf.to_container(changed, resolve=True)["policy"]["generation"]  # type: ignore[index,call-overload]
    config["model_name"] = str(model)
    if plug_in:  # Hydra's command line knows no such keys
        config |= {"refit_transport": plug_in, "refit_cfg": {plug_in: {}}}
        config["colocated"]["enabled"] = False
    tokenizer: Any = SimpleNamespace(pad_token_id=PAD, eos_token_id=None)
    # Before this package's arguments are added: NeMo-RL would load the checkpoint for any drafter but its own.
    config = configure_generation_config(config, tokenizer, is_eval=not trained)
    config["vllm_cfg"]["skip_tokenizer_init"] = True
    ours = {} if settings is None else vllm_kwargs(model, settings)
    config["vllm_kwargs"] = ours | SMALL | vllm
    return config


OVERRIDES = (
    f"max_new_tokens={NEW_TOKENS}",
    "stop_token_ids=[]",
    "ignore_eos=true",
    "vllm_cfg.enforce_eager=true",
    "vllm_cfg.gpu_memory_utilization=0.2",
    "vllm_cfg.enable_prefix_caching=true",  # unset, it depends on the GPU
    "vllm_cfg.use_tqdm=false",
)
SMALL = {"kv_cache_memory_bytes": 1 << 26, "max_num_seqs": 16, "max_num_batched_tokens": 512}
"""An engine that starts in seconds."""
