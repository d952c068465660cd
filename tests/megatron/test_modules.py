"""Which modules are understood, and by what name; Transformer Engine's by look-alikes, as it does not run on a CPU."""

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.megatron import DrafterStream, Groups, Place, Ranks, quantize_shards
from nemo_rl_efficientrollout.drafter.megatron.shards import find_shards
from nemo_rl_efficientrollout.errors import UnsupportedError

HIDDEN, HEADS, QUERY_GROUPS, CHANNELS, FFN, EXPERT_FFN, VOCAB = 64, 4, 2, 32, 128, 32, 50
CONFIG = SimpleNamespace(
    num_attention_heads=HEADS, num_query_groups=QUERY_GROUPS, kv_channels=CHANNELS, gated_linear_unit=True
)
ALONE = Groups()
INT8 = FORMATS["int8"]


@dataclass(frozen=True)
class Second(Ranks):
    """The second of two ranks, which the first answers with what it is told."""

    @property
    def rank(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return 2

    def largest(self, values: Tensor) -> Tensor:
        return values


def module(name: str, bases: tuple[type, ...] = (nn.Module,), **parts: Any) -> Any:
    """A module of a class of that name; tensors become parameters."""
    made = type(name, bases, {})()
    for key, part in parts.items():
        setattr(made, key, nn.Parameter(part, requires_grad=False) if isinstance(part, Tensor) else part)
    return made


def matrix(rows: int, columns: int, like: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(rows, columns).to(like)


def attention(kind: str = "TE", ranks: int = 1, **changes: Any) -> Any:
    rows = (HEADS + 2 * QUERY_GROUPS) * CHANNELS // ranks
    fused = "InferenceLayerNormColumnParallelLinear" if kind == "Inference" else "TELayerNormColumnParallelLinear"
    parts = {
        "linear_qkv": module(fused, weight=matrix(rows, HIDDEN), layer_norm_weight=torch.ones(HIDDEN)),
        "linear_proj": module(f"{kind}RowParallelLinear", weight=matrix(HIDDEN, HEADS * CHANNELS // ranks)),
        "config": CONFIG,
    }
    return module("SelfAttention", **(parts | changes))


def mlp(ffn: int = FFN, kind: str = "MLP", **more: Any) -> Any:
    fc1 = module("TEColumnParallelLinear", weight=matrix(2 * ffn, HIDDEN), bias=torch.ones(2 * ffn))
    fc2 = module("TERowParallelLinear", weight=matrix(HIDDEN, ffn))
    return module(kind, **({"linear_fc1": fc1, "linear_fc2": fc2, "config": CONFIG} | more))


def grouped(experts: list[int], gate: Tensor | None = None) -> Any:
    fc1: dict[str, Any] = {f"weight{i}": matrix(2 * EXPERT_FFN, HIDDEN) for i in range(len(experts))}
    fc2: dict[str, Any] = {f"weight{i}": matrix(HIDDEN, EXPERT_FFN) for i in range(len(experts))}
    linears = {
        "linear_fc1": module("TEColumnParallelGroupedLinear", **fc1),
        "linear_fc2": module("TERowParallelGroupedLinear", **fc2),
    }
    return module(
        "MoELayer",
        router=module("TopKRouter", weight=matrix(8, HIDDEN)),
        experts=module("TEGroupedMLP", config=CONFIG, **linears),
        shared_experts=mlp(EXPERT_FFN, "SharedExpertMLP", gate_weight=gate),
        local_expert_indices=experts,
    )


def layer(number: int, **parts: Any) -> Any:
    """`number` counts from 1, over all stages, as Megatron's."""
    return module("TransformerLayer", layer_number=number, **({"self_attention": attention(), "mlp": mlp()} | parts))


def gpt(*layers: Any, **parts: Any) -> Any:
    embedding = module(
        "LanguageModelEmbedding", word_embeddings=module("VocabParallelEmbedding", weight=matrix(64, HIDDEN))
    )
    decoder = module("TransformerBlock", layers=nn.ModuleList(layers))
    parts = {"output_layer": module("ColumnParallelLinear", weight=matrix(64, HIDDEN)), "post_process": True} | parts
    return module("GPTModel", embedding=embedding, decoder=decoder, **parts)


def named(model: Any, groups: Groups = ALONE) -> dict[str, Tensor]:
    """The unquantized pieces."""
    return {shard.name: shard.weight() for shard in find_shards(model, INT8, groups, VOCAB)}


DENSE = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]


@pytest.mark.parametrize("kind", ["TE", "Inference"])
def test_fused_linears_give_their_weights_and_nothing_else(kind: str) -> None:
    found = named(gpt(layer(1, self_attention=attention(kind))))
    assert list(found) == [f"model.layers.0.{name}.weight" for name in DENSE] + ["lm_head.weight"]
    assert found["lm_head.weight"].shape == (VOCAB, HIDDEN)


def test_rows_of_query_key_and_value() -> None:
    model = gpt(layer(1))
    weight = model.decoder.layers[0].self_attention.linear_qkv.weight
    groups = weight.view(QUERY_GROUPS, HEADS // QUERY_GROUPS + 2, CHANNELS, HIDDEN)
    found = named(model)
    for name, rows in (("q", groups[:, :-2]), ("k", groups[:, -2:-1]), ("v", groups[:, -1:])):
        assert torch.equal(found[f"model.layers.0.self_attn.{name}_proj.weight"], rows.reshape(-1, HIDDEN))


def test_places_on_the_second_of_two_ranks() -> None:
    model = gpt(layer(1, self_attention=attention(ranks=2)))
    pieces = {piece.name: piece for piece in quantize_shards(model, INT8, Groups(tensor=Second()), VOCAB + 64)}
    q, half = HEADS * CHANNELS, QUERY_GROUPS * CHANNELS // 2
    expected = {
        "self_attn.q_proj": ((q, HIDDEN), Place(q // 2, 0, q // 2, HIDDEN)),
        "self_attn.v_proj": ((2 * half, HIDDEN), Place(half, 0, half, HIDDEN)),
        "self_attn.o_proj": ((HIDDEN, q), Place(0, q // 2, HIDDEN, q // 2)),
        "mlp.up_proj": ((2 * FFN, HIDDEN), Place(FFN, 0, FFN, HIDDEN)),
        "mlp.down_proj": ((HIDDEN, 2 * FFN), Place(0, FFN, HIDDEN, FFN)),
    }
    for name, (shape, place) in expected.items():
        piece = pieces[f"model.layers.0.{name}.weight"]
        assert (piece.shape, piece.place) == (shape, place)
        assert piece.quantized.data.shape == place[2:]
    assert pieces["lm_head.weight"].place == Place(64, 0, VOCAB, HIDDEN)


class Forgetful(Second):
    """A backend whose maximum of a number and a NaN is the number; the other rank holds zeros."""

    def largest(self, values: Tensor) -> Tensor:
        return torch.fmax(values, torch.zeros_like(values))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_backend_that_forgets_nans_does_not_hide_them(bad: float) -> None:
    model = gpt(layer(1, self_attention=attention(ranks=2)))
    model.decoder.layers[0].self_attention.linear_proj.weight[3, 5] = bad
    pieces = {piece.name: piece for piece in quantize_shards(model, INT8, Groups(tensor=Forgetful()), None)}
    scale = pieces["model.layers.0.self_attn.o_proj.weight"].quantized.scale
    assert (~scale.isfinite()).nonzero()[:, 0].tolist() == [3]


def test_grouped_experts_have_their_global_numbers() -> None:
    model = gpt(layer(3, mlp=grouped([4, 5])))
    found = named(model)
    experts = {name.split(".")[5] for name in found if ".experts." in name}
    assert experts == {"4", "5"}
    fc1 = model.decoder.layers[0].mlp.experts.linear_fc1
    assert torch.equal(found["model.layers.2.mlp.experts.5.up_proj.weight"], fc1.weight1[EXPERT_FFN:])
    assert "model.layers.2.mlp.shared_experts.gate_proj.weight" in found
    assert len([name for name in found if ".mlp." in name]) == 3 * (2 + 1)


def test_a_gated_shared_expert_is_named_in_the_singular() -> None:
    found = named(gpt(layer(1, mlp=grouped([0], gate=matrix(1, HIDDEN)))))
    assert "model.layers.0.mlp.shared_expert.down_proj.weight" in found
    assert not any("shared_experts" in name or "gate.weight" in name for name in found)


def test_chunks_of_a_virtual_pipeline_wrapped_in_modules() -> None:
    chunks = [gpt(layer(number), post_process=number == 4) for number in (2, 4)]
    del chunks[0].output_layer
    wrapped = [module("DistributedDataParallel", module=module("Float16Module", module=chunk)) for chunk in chunks]
    found = [name for name in (shard.name for shard in find_shards(wrapped, INT8, ALONE, VOCAB)) if "q_proj" in name]
    assert found == ["model.layers.1.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight"]
    streamed = [name for name, _ in DrafterStream(iter(wrapped), INT8, VOCAB, ALONE)]
    assert len(streamed) == 2 * (2 * len(DENSE) + 1)


def test_a_tied_head_is_the_embedding() -> None:
    model = gpt(layer(1), output_layer=module("ColumnParallelLinear", weight=None))
    weight = model.embedding.word_embeddings.weight
    assert torch.equal(named(model)["lm_head.weight"], weight[:VOCAB])
    del model.output_layer
    assert torch.equal(named(model)["lm_head.weight"], weight[:VOCAB])


def test_multi_token_prediction_is_left_out() -> None:
    mtp = module("MultiTokenPredictionBlock", layers=nn.ModuleList([layer(2)]), eh_proj=nn.Linear(4, 4))
    assert list(named(gpt(layer(1), mtp=mtp))) == list(named(gpt(layer(1))))


class ColumnParallelLinear(nn.Module):
    """For a subclass: told by the name of its base."""


def wide_qkv() -> Any:
    return module("ColumnParallelLinear", weight=matrix((2 * HEADS + 2 * QUERY_GROUPS) * CHANNELS, HIDDEN))


def lora() -> Any:
    inner = module("TEColumnParallelLinear", weight=matrix(256, HIDDEN))
    return module("LoRALinear", to_wrap=inner)


def eight_bits() -> Any:
    return module("TERowParallelLinear", weight=matrix(HIDDEN, FFN).to(torch.float8_e4m3fn))


class Float8Tensor(Tensor):
    """Looks like Transformer Engine's: BF16 to the eye."""


def disguised() -> Any:
    linear = module("TERowParallelLinear")
    linear.weight = nn.Parameter(matrix(HIDDEN, FFN).as_subclass(Float8Tensor), requires_grad=False)
    return linear


def test_a_subclass_is_what_its_base_is() -> None:
    qkv = module("MyLinear", (ColumnParallelLinear,), weight=matrix(256, HIDDEN))
    assert len(named(gpt(layer(1, self_attention=attention(linear_qkv=qkv))))) == len(DENSE) + 1


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (
            lambda: gpt(layer(1, self_attention=attention(linear_qkv=lora()))),
            "linear_qkv' is a LoRALinear, which is not",
        ),
        (lambda: gpt(layer(1, mlp=module("GroupedMLP", weight1=matrix(4, 4)))), "mlp' is a GroupedMLP"),
        (
            lambda: gpt(layer(1, self_attention=attention(linear_q_up_proj=wide_qkv()))),
            "linear_q_up_proj' (ColumnParallelLinear) has no known Hugging Face name",
        ),
        (
            lambda: gpt(layer(1, self_attention=attention(linear_proj=wide_qkv()))),
            "linear_proj' (ColumnParallelLinear) has no known Hugging Face name",
        ),
        (
            lambda: gpt(layer(1, self_attention=attention(linear_qkv=wide_qkv()))),
            "linear_qkv' has 384 rows over 1 ranks, 256 expected",
        ),
        (lambda: gpt(layer(1, mlp=mlp(linear_fc2=eight_bits()))), "linear_fc2.weight' is a torch.float8_e4m3fn"),
        (lambda: gpt(layer(1, mlp=mlp(linear_fc2=disguised()))), "linear_fc2.weight' is a torch.bfloat16 Float8Tensor"),
        (lambda: gpt(layer(1), output_layer=nn.Linear(4, 4)), "'output_layer' is a Linear"),
        (lambda: gpt(layer(1), vision=nn.Linear(4, 4)), "'vision' is a Linear"),
    ],
    ids=["LoRA", "GroupedMLP", "latent", "wrong side", "gated attention", "fp8", "TE fp8", "value head", "vision"],
)
def test_what_is_not_understood_is_named(model: Any, line: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        DrafterStream(model(), INT8, VOCAB, ALONE)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_expert_weight_is_named() -> None:
    model = gpt(layer(1, mlp=grouped([0, 1])))
    del model.decoder.layers[0].mlp.experts.linear_fc2.weight1
    with pytest.raises(UnsupportedError, match=r"experts.linear_fc2.weight1' does not exist"):
        named(model)


def test_importing_needs_neither_megatron_nor_an_engine() -> None:
    code = "import sys, nemo_rl_efficientrollout.drafter.megatron; print({'megatron', 'vllm'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"
