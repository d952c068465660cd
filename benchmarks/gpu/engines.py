"""The engines that compete: stock vLLM, its own draft model, and this package with every kind of gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..measure import new_engine
from .limits import unconditional
from .shapes import Built, draw_weights, policy_of

if TYPE_CHECKING:
    from vllm import LLM

STOCK, EFFICIENT = "stock", "efficientrollout"
FIXED = (5, 7)
REQUESTS = 128
"""Per engine, as in the paper: whoever always speculates does so from the first of them on."""
LONGEST = 11
"""Most that the automatic gate may draft: the top of the paper's ladder."""
STOCK_DRAFTS = 5
TABLE = ((1, 8, 5), (9, 32, 3), (33, 1024, 0))
"""Draft length by batch size, as a user without measurements would set vLLM's static table."""
MEMORY_SHARE = 0.02
"""Of the GPU that an engine asks for, beside the KV cache of stated size: others live there as well."""


@dataclass(frozen=True)
class Contestant:
    """How one engine speculates."""

    name: str
    settings: Mapping[str, Any] | None = None
    """This package's; None is stock vLLM."""
    speculation: Mapping[str, Any] | None = None
    """Stock vLLM's own `speculative_config`, without the model."""

    @property
    def ours(self) -> bool:
        return self.settings is not None

    def arguments(self, built: Built, acceptance: float | None) -> dict[str, Any]:
        """vLLM's arguments that turn its speculation on; with `acceptance`, drafts are accepted at that rate."""
        from nemo_rl_efficientrollout import engine_kwargs

        if self.settings is not None:
            arguments = engine_kwargs(str(built.directory), {**self.settings, "strict": True})
        elif self.speculation is not None:
            arguments = {"speculative_config": {"model": str(built.directory), **self.speculation}}
        else:
            return {}
        if acceptance is not None:
            length = arguments["speculative_config"]["num_speculative_tokens"]
            arguments["speculative_config"] |= {
                "rejection_sample_method": "synthetic",
                "synthetic_acceptance_rates": unconditional(length, acceptance),
            }
        return arguments


def contestants(format_name: str, on_gpu: bool) -> dict[str, Contestant]:
    """All of them by name, stock vLLM first."""

    def own(name: str, gate: dict[str, Any], longest: int) -> Contestant:
        lengths = {"max": longest, "max_requests": REQUESTS}
        return Contestant(name, {"drafter": {"format": format_name}, "draft_length": lengths, "gate": gate})

    draft_model = {
        "method": "draft_model",
        "num_speculative_tokens": STOCK_DRAFTS,
        "draft_sample_method": "probabilistic",
        **({"quantization": "fp8"} if on_gpu else {}),  # CPUs have no online FP8: there the copy is exact
    }
    table = {"num_speculative_tokens_per_batch_size": [list(row) for row in TABLE]}
    listed = [
        Contestant(STOCK),
        *(own(f"fixed-{length}", {"mode": "fixed", "draft_length": length}, length) for length in FIXED),
        Contestant("stock-draft", speculation=draft_model),
        Contestant("stock-table", speculation=draft_model | table),
        own(EFFICIENT, {"mode": "auto"}, LONGEST),
    ]
    return {contestant.name: contestant for contestant in listed}


def open_engine(
    built: Built,
    contestant: Contestant,
    *,
    requests: int,
    max_model_len: int,
    kv_gib: float,
    acceptance: float | None = None,
    drawn: bool = True,
    **vllm: Any,
) -> "LLM":
    """An engine on this machine's device: graphs and compilation as vLLM has them by default on a GPU, eager on a CPU.

    Weights that vLLM made up are drawn anew, unless `drawn` is false.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    device = {"gpu_memory_utilization": MEMORY_SHARE} if on_gpu else {}
    llm = new_engine(
        built.directory,
        None,
        requests=requests,
        longest=0,
        compiled=on_gpu,
        max_model_len=max_model_len,
        kv_cache_memory_bytes=int(kv_gib * 2**30),
        **({"load_format": "dummy"} if built.dummy else {}),
        **device,
        **contestant.arguments(built, acceptance),
        **vllm,
    )
    if built.dummy and drawn:
        draw_weights(policy_of(llm))
        if contestant.ours:
            llm.collective_rpc("efficientrollout_requantize")
    return llm


def names_list(known: Sequence[str]) -> Any:
    """An argparse type: comma-separated names, each one of `known`."""
    import argparse

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        return names

    return read
