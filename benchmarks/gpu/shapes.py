"""Models of published shapes, without a download: a config.json, whose weights the engine makes up on the GPU.

vLLM's `load_format="dummy"` fills every parameter, norms too, with values within ±0.001. A forward pass then ends in
logits that are all but equal, every draft is accepted, and nothing is learned about acceptance: degenerate. So the
weights are drawn anew in place, as wide as those of a trained model, and the drafter is made anew from them. Step times
depend on neither. On a CPU there is the tiny shape, saved with real random weights.

As a command: opens each shape, and says whether the drafter is made from the engine's weights, how sure the model is of
its next token before and after, and what the weights weigh.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..measure import set_environment
from ..model import SHAPES, save_random_model
from ..record import Parser, Progress, Record, check_writable, new_parser

if TYPE_CHECKING:
    from torch import nn
    from vllm import LLM

TINY = "tiny"
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}
_SHARED = {"hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def _sizes(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": _QWEN | _SHARED | _sizes(3584, 28, 28, 4, 18944),
    "llama-3.1-8b": _LLAMA | _SHARED | _sizes(4096, 32, 32, 8, 14336),
    "qwen2.5-14b": _QWEN | _SHARED | _sizes(5120, 48, 40, 8, 13824),
}
WEIGHT_STD, LOGIT_STD = 0.02, 3.0
"""Of a trained model's weights, and of logits that are about as sure as a language model's."""
DEGENERATE = 0.99
"""Share of the vocabulary's entropy above which logits say nothing."""


@dataclass(frozen=True)
class Built:
    """A model folder that vLLM can open."""

    name: str
    directory: Path
    config: dict[str, Any]
    dummy: bool
    """Whether the engine makes up the weights."""

    @property
    def vocabulary(self) -> int:
        return self.config["vocab_size"]


def build(name: str, folder: Path) -> Built:
    """The shape of this name in `folder`; the tiny one has weights."""
    if name == TINY:
        save_random_model(folder, SHAPES[TINY])
        return Built(name, folder, json.loads((folder / "config.json").read_text()), dummy=False)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    return Built(name, folder, CONFIGS[name], dummy=True)


def add_shape_option(parser: Parser, default: str = "qwen2.5-7b") -> None:
    """`--shape`, whose name `settle_shape` checks once all options are known."""
    parser.add_argument("--shape", choices=(*CONFIGS, TINY), default=default, help=f"default: {default}")


def settle_shape(parser: Parser, options: Any) -> None:
    """Quick mode is tiny; any other shape needs a GPU."""
    import torch

    if options.quick:
        options.shape = TINY
    if options.shape != TINY and not torch.cuda.is_available():
        parser.error(f"argument --shape: {options.shape} needs a GPU; give --quick to try this on a CPU")


def draw_weights(model: "nn.Module", seed: int = 0) -> None:
    """Fill a model in place as a trained one would be filled: norms 1, the head for sure logits, the rest normal."""
    import torch

    with torch.inference_mode():
        for index, (name, weight) in enumerate(model.named_parameters()):
            generator = torch.Generator(device=weight.device).manual_seed(seed + index)
            if name.endswith("norm.weight"):
                weight.fill_(1.0)
            else:
                std = LOGIT_STD / math.sqrt(weight.shape[-1]) if name.startswith("lm_head") else WEIGHT_STD
                weight.normal_(0.0, std, generator=generator)


def runner_of(llm: "LLM") -> Any:
    """The engine's model runner, reachable because the engine runs in this process."""
    return _worker(llm).model_runner


def policy_of(llm: "LLM") -> "nn.Module":
    """The engine's model, without what captures its graphs."""
    return _worker(llm).get_model()


def _worker(llm: "LLM") -> Any:
    core: Any = llm.llm_engine.engine_core
    return core.engine_core.model_executor.driver_worker.worker


def drafter_error(llm: "LLM") -> float:
    """‖drafter - policy‖ / ‖policy‖ of the outputs of the first quantized layer, on random inputs. Near the format's
    own error if the drafter was made from this policy, near 1.4 if it was made from other weights."""
    import torch

    runner = runner_of(llm)
    first = runner.self_speculation.twin.quantized[0]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, first.source.input_size, generator=generator).to(runner.device, torch.bfloat16)
    with torch.inference_mode():
        own = first.method.apply(first.layer, inputs, None).float()
        policy = first.source.quant_method.apply(first.source, inputs, None).float()
    return float((own - policy).norm() / policy.norm())


def nats_per_token(llm: "LLM", vocabulary: int) -> float:
    """Mean surprise of sampled tokens; at most log(vocabulary), which equal logits have."""
    from vllm import SamplingParams

    prompts: Any = [{"prompt_token_ids": [(17 * i + j) % vocabulary for j in range(16)]} for i in range(16)]
    sampling = SamplingParams(temperature=1.0, max_tokens=4, logprobs=0, ignore_eos=True, detokenize=False)
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    answers: list[Any] = [output.outputs[0] for output in outputs]
    surprises = [-at[token].logprob for one in answers for token, at in zip(one.token_ids, one.logprobs, strict=True)]
    return sum(surprises) / len(surprises)


def main(arguments: list[str] | None = None) -> int:
    """Open, look, write."""
    from .engines import Contestant, open_engine
    from .limits import Bytes

    parser = new_parser("gpu.shapes", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--format", default="int4", help="of the drafter; default: int4")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    if options.quick:
        options.format = "int8"
    set_environment()
    progress = Progress(options.quiet)
    record = Record(
        "gpu.shapes",
        f"What the engine makes of a shape without weights: {options.shape}, drafter {options.format}",
        {key: getattr(options, key) for key in ("shape", "format", "quick")},
        ("weights", "nats per token", "most", "degenerate", "drafter's error", "target GB", "drafter GB", "c"),
    )
    with tempfile.TemporaryDirectory() as directory:
        built = build(options.shape, Path(directory))
        if options.quick:  # what a GPU is given, on a CPU: the drafter must follow dummy weights, too
            built = Built(built.name, built.directory, built.config, dummy=True)
            (built.directory / "model.safetensors").unlink()
        contestant = Contestant("ours", {"drafter": {"format": options.format}, "gate": {"mode": "off"}})
        with progress.phase("opening the engine"):
            llm = open_engine(built, contestant, requests=16, max_model_len=64, kv_gib=1, drawn=False)
        _look(record, "as vLLM makes them up", llm, built, options.format)
        if not options.quick:
            draw_weights(policy_of(llm))
            llm.collective_rpc("efficientrollout_requantize")
            _look(record, "drawn anew", llm, built, options.format)
    size = Bytes.of(built.config, options.format)
    record.notes.append(f"{size.kv_per_token} bytes of keys and values per token")
    record.notes.append("drafter's error: of the first layer's outputs; 1.4 would mean that it has other weights")
    record.finish(options)
    return 0


def _look(record: Record, label: str, llm: "LLM", built: Built, format_name: str) -> None:
    from .limits import Bytes

    nats, most, error = nats_per_token(llm, built.vocabulary), math.log(built.vocabulary), drafter_error(llm)
    size, problem = Bytes.of(built.config, format_name), llm.collective_rpc("efficientrollout_stats")[0]
    result = {
        "weights": label,
        "nats_per_token": nats,
        "most_nats": most,
        "degenerate": nats > DEGENERATE * most,
        "drafter_error": error,
        "drafter_problem": problem["drafter_problem"],
        "target_bytes": size.target,
        "drafter_bytes": size.drafter,
        "byte_ratio": size.ratio(),
    }
    record.results.append(result)
    record.rows.append(
        (
            label,
            f"{nats:.2f}",
            f"{most:.2f}",
            "yes" if result["degenerate"] else "no",
            f"{error:.1%}",
            f"{size.target / 1e9:.2f}",
            f"{size.drafter / 1e9:.2f}",
            f"{size.ratio():.3f}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
