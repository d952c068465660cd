"""`efficientrollout drafter size`: against the real tensors of real architectures, and against quantizing them."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nemo_rl_efficientrollout import cli
from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.fused import quantize_packed
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.drafter.size import drafter_size, policy_size
from nemo_rl_efficientrollout.errors import UnsupportedError, UserError
from tests.models import save_tiny_model, weights_of

SMALL = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTURE = {"moe_intermediate_size": 64, "num_experts": 6, "num_experts_per_tok": 2}
MODELS = {
    "llama": {"head_dim": 64, "attention_bias": True, "mlp_bias": True},
    "mistral": {"head_dim": 32},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 64},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**MIXTURE, "shared_expert_intermediate_size": 192, "decoder_sparse_step": 2},
    "qwen3_moe": {**MIXTURE, "head_dim": 32, "mlp_only_layers": [1]},
}
PARTS = {  # by what a tensor's name contains; the first that fits
    "shared_expert_gate": "router",
    "shared_expert": "shared expert",
    "experts": "experts",
    "mlp.gate.": "router",
    "self_attn.o_proj": "attention o",
    "norm": "norms",
    "self_attn": "attention qkv",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "down_proj": "down",
    "lm_head": "lm_head",
    "embed_tokens": "embedding",
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    """As Hugging Face writes it, defaults of the family included."""
    settings: dict[str, Any] = {**SMALL, **MODELS[family], **changes}
    return json.loads(transformers.AutoConfig.for_model(family, **settings).to_json_string())


@pytest.mark.parametrize("family", MODELS)
def test_policy_is_as_large_as_the_real_model(family: str) -> None:
    config = config_of(family)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    expected: Counter[str] = Counter()
    for name, tensor in model.named_parameters():  # a tied head occurs once, as embedding
        expected[next(part for key, part in PARTS.items() if key in name)] += 2 * tensor.numel()
    found = policy_size(model_shape(config))
    assert {part: size for part, size in found.items() if size} == expected
    assert (found["lm_head"] == 0) == (family == "qwen2")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_drafter_is_as_large_as_the_real_tensors_quantized(family: str, tied: bool, tmp_path: Path) -> None:
    directory = save_tiny_model(tmp_path, family, tied=tied, hidden=256)
    tensors = {name: tensor.bfloat16() for name, tensor in weights_of(directory).items()}
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    own = {name: tensor for name, tensor in tensors.items() if name == "lm_head.weight" or "proj" in name}
    shape = model_shape(json.loads((directory / "config.json").read_text()))
    for form in (FORMATS[name] for name in FORMATS if name != "bf16"):
        sizes = {}
        for name, tensor in own.items():
            stored = quantize_packed(form, tensor) if tensor.dim() == 2 else [tensor]
            sizes[name] = sum(part.nbytes for part in stored if part is not None)
        found = drafter_size(shape, form)
        assert not found.refusals
        assert found.total == sum(sizes.values())
        assert found.without_lm_head == found.total - sizes["lm_head.weight"]
    assert drafter_size(shape, FORMATS["bf16"]).total == 0


def test_a_merged_layer_is_shared_where_one_of_its_matrices_is_refused() -> None:
    shape = model_shape(config_of("llama", num_key_value_heads=1, hidden_size=256))  # q has 256 rows, k and v 64
    found = drafter_size(shape, FORMATS["fp8_block"])
    assert [refusal.layer for refusal in found.refusals] == ["qkv_proj"]
    assert found.parts["attention qkv"] == 0
    assert found.parts["attention o"] > 0


@pytest.mark.parametrize("family", MODELS)
def test_gpus_share_what_is_not_replicated(family: str) -> None:
    config = config_of(family)
    alone, halved = model_shape(config), model_shape(config, 2)
    for whole, half in zip(alone.linears, halved.linears, strict=True):
        rows, columns = 2, 1  # divided by
        if whole.part == "router":
            rows = 1
        if whole.name.endswith(("o_proj", "down_proj", "w2")):
            rows, columns = 1, 2
        assert half.rows == tuple(count // rows for count in whole.rows), whole.name
        assert (half.columns, half.count) == (whole.columns // columns, whole.count)
    assert (halved.embedding * 2, halved.norms) == (alone.embedding, alone.norms)


def test_more_gpus_than_key_value_heads_repeat_the_heads() -> None:
    config = config_of("qwen3", num_key_value_heads=2)
    qkv = {linear.name: linear for linear in model_shape(config, 4).linears}["qkv_proj"]
    assert qkv.rows == (64, 64, 64)
    with pytest.raises(UserError, match="3 GPUs do not divide among num_key_value_heads 2"):
        model_shape(config_of("qwen3", num_attention_heads=6), 3)


def test_vocabulary_is_padded_before_it_is_divided() -> None:
    shape = model_shape(config_of("llama", vocab_size=1000), 2)
    assert shape.linears[-1].rows == (512,)
    assert shape.embedding == 512 * 128


def test_older_configurations_leave_out_what_is_the_same_for_all_of_a_type() -> None:
    config = config_of("qwen2_moe")
    del config["qkv_bias"]  # Qwen1.5-MoE-A2.7B has none, and biases
    assert model_shape(config).linears[0].bias
    assert not model_shape({**config, "qkv_bias": False}).linears[0].bias
    without = {key: value for key, value in config_of("qwen3").items() if key != "head_dim"}
    assert model_shape(without).linears[1].columns == 4 * 128


def test_routers_and_refused_layers_cost_nothing_and_are_named() -> None:
    found = drafter_size(model_shape(config_of("qwen3_moe", moe_intermediate_size=48)), FORMATS["int4"])
    assert found.parts["router"] == found.parts["embedding"] == found.parts["norms"] == 0
    assert [refusal.layer for refusal in found.refusals] == ["experts.w13", "experts.w2"]
    assert found.parts["experts"] == 0
    assert found.parts["gate_up"] > 0
    assert "48" in found.refusals[0].reason


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["efficientrollout", "drafter", "size", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config_of("qwen3_moe", moe_intermediate_size=48)))
    return tmp_path


def test_json_has_bytes_of_the_formats_asked_for(run, model: Path) -> None:
    chosen = ("--format", "int8", "--format", "int4", "--tensor-parallel", 2)
    code, out, _ = run("--model", model, *chosen, "--json")
    content = json.loads(out)
    shape = model_shape(json.loads((model / "config.json").read_text()), 2)
    assert code == 0
    assert list(content["drafters"]) == ["int8", "int4"]
    assert content["policy"]["parts"] == policy_size(shape)
    assert content["policy"]["total"] == sum(policy_size(shape).values())
    own = content["drafters"]["int8"]
    assert own["parts"] == drafter_size(shape, FORMATS["int8"]).parts
    assert own["total"] == sum(own["parts"].values()) == own["total_without_lm_head"] + own["parts"]["lm_head"]
    assert content["drafters"]["int4"]["shared_because_refused"][0]["layer"] == "experts.w13"


def test_table_has_every_format_and_says_what_is_shared(run, model: Path) -> None:
    code, out, _ = run("--model", model)
    assert code == 0
    assert all(name in out for name in (*FORMATS, "experts", "router", "total, lm_head shared"))
    assert "int4: experts.w13 is shared, because " in out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_size": None}, "no hidden_size"),
        ({"num_local_experts": None}, "no num_experts or num_local_experts"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"mlp_only_layers": 3, "model_type": "qwen3_moe"}, "mlp_only_layers is 3, expected a list"),
        ({"decoder_sparse_step": "2", "model_type": "qwen3_moe"}, "decoder_sparse_step is '2'"),
        ({"model_type": None}, "no model_type"),
        ({"model_type": "qwen4"}, "did you mean 'qwen"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_mistakes_in_the_configuration_are_one_line(run, model: Path, changes: dict, expected: str) -> None:
    file = model / "config.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    code, out, error = run("--model", model)
    assert (code, out) == (2, "")
    assert expected in error
    assert len(error.splitlines()) == 1


def test_mistakes_of_the_command_are_one_line(run, model: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        (("--model", tmp_path / "none"), "none/config.json"),
        (("--model", model, "--format", "in8"), "did you mean 'int8'"),
        (("--model", model, "--tensor-parallel", 3), "does not divide among 3 GPUs"),
        (("--model", model, "--tensor-parallel", 0), "--tensor-parallel"),
        ((), "--model"),
    ):
        code, out, error = run(*arguments)
        assert (code, out) == (2, "")
        assert expected in error
        assert len(error.splitlines()) == 1


def test_unknown_types_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="deepseek_v3"):
        model_shape({**SMALL, "model_type": "deepseek_v3"})


def test_shapes_need_no_torch() -> None:
    code = "import sys, nemo_rl_efficientrollout.cli.drafter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
