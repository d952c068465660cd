"""What ranks must do together: refuse together, send again after a refit, and not lose a bad number."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.megatron import DrafterStream, Groups, Ranks
from nemo_rl_efficientrollout.drafter.packing import PREFIX, read_stream
from nemo_rl_efficientrollout.errors import UnsupportedError
from tests.megatron.shapes import VOCAB, Shape, hf_weights, quantizable
from tests.megatron.worlds import WORLD, Case, equal, model_of, refusal, run

NARROW_HEADS = Shape(head=64)
REFUSED = {
    "groups of columns": Case(Shape(ffn=320), tensor=2, formats=("int4", "int4_symmetric", "int8")),
    "key heads": Case(NARROW_HEADS, tensor=2, formats=("fp8_block", "fp8")),
    "gate rows": Case(Shape(ffn=384), tensor=2, formats=("fp8_block", "int4")),
    "gate columns": Case(Shape(ffn=384, gated=False), tensor=4, formats=("fp8_block",)),
    "only on the second stage": Case(Shape(experts=4, expert_ffn=192), pipeline=2, expert_tensor=2, tensor=2),
    "vocabulary": Case(tensor=2, vocab=513, formats=("int8",)),
    "bf16": Case(formats=("bf16",)),
}
EXPECTED = {
    ("groups of columns", "int4"): "'model.layers.0.mlp.down_proj.weight' (Megatron's decoder.layers.0.mlp.linear_fc2"
    ".weight): int4 shares a scale over 64 of its 320 columns, but each of 2 tensor-parallel ranks holds 160",
    ("groups of columns", "int4_symmetric"): "int4_symmetric shares a scale over 64 of its 320 columns",
    ("groups of columns", "int8"): "",
    ("key heads", "fp8_block"): "'model.layers.0.self_attn.k_proj.weight' (Megatron's decoder.layers.0.self_attention."
    "linear_qkv.weight): fp8_block shares a scale over 128 rows, but one of 2 tensor-parallel ranks starts at row 64",
    ("key heads", "fp8"): "",
    ("gate rows", "fp8_block"): "'model.layers.0.mlp.gate_proj.weight'",
    ("gate rows", "int4"): "int4 shares a scale over 128 of its 384 columns, but each of 2 tensor-parallel ranks "
    "holds 192",
    ("gate columns", "fp8_block"): "starts at row 96",
    ("only on the second stage", "int4"): "'model.layers.1.mlp.experts.0.down_proj.weight'",
    ("vocabulary", "int8"): "'output_layer.weight' has 512 rows, fewer than the vocabulary of 513",
    ("bf16", "bf16"): "there is nothing to send",
}


def refit(case: Case) -> dict[str, Any]:
    """Streams of one object before and after the weights changed and moved, beside what they ought to be."""
    from tests.megatron.models import state
    from tests.megatron.shapes import load

    old, new = hf_weights(case.shape, seed=0), hf_weights(case.shape, seed=1)
    model = model_of(case, old)
    int4 = FORMATS["int4"]
    stream = DrafterStream(model, int4, VOCAB)
    answers: dict[str, Any] = {}
    for when, weights in (("before", old), ("after", new)):
        received = read_stream(stream, int4)
        expected = {name: int4.quantize(weight) for name, weight in quantizable(weights, case.shape).items()}
        answers[when] = [name for name in expected if not equal(received[name], expected[name])]
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter)  # as when weights are offloaded and brought back
        load(model, new, case.shape, state)
    return answers


def order(case: Case) -> dict[str, Any]:
    """The stream's names as they come, whether they were foretold with shape and type, and what is said where experts
    are split over ranks that are not asked."""
    model = model_of(case, hf_weights(case.shape))
    stream = DrafterStream(model, FORMATS["int4"], VOCAB)
    foretold = [(name, blank.shape, blank.dtype) for name, blank in stream.blanks()]
    sent = [(name, tensor.shape, tensor.dtype) for name, tensor in stream]
    shapes = {name: tuple(weight.shape) for name, weight in quantizable(hf_weights(case.shape), case.shape).items()}
    answer: dict[str, Any] = {"names": [name for name, *_ in sent], "foretold": sent == foretold}
    answer |= {"shapes": stream.shapes() == shapes, "wrong groups": ""}
    try:
        DrafterStream(model, FORMATS["int4"], VOCAB, replace(Groups.of_megatron(), experts=Ranks()))
    except UnsupportedError as error:
        answer["wrong groups"] = str(error)
    return answer


def bad_number(case: Case) -> dict[str, Any]:
    """Rows of a row-parallel weight whose scale is no number; one rank holds a NaN in row 5, the other in row 9."""
    from tests.megatron.models import state

    model = model_of(case, hf_weights(case.shape))
    row = (5, 9)[state.get_tensor_model_parallel_rank()]
    dict(model.named_parameters())["decoder.layers.0.self_attention.linear_proj.weight"].data[row, 7] = torch.nan
    received = read_stream(DrafterStream(model, FORMATS["int8"], VOCAB), FORMATS["int8"])
    scale = received["model.layers.0.self_attn.o_proj.weight"].scale
    return {"rows": (~scale.isfinite()).nonzero()[:, 0].tolist()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    case = Case(Shape(experts=4), tensor=2, pipeline=2, expert_tensor=2)
    jobs = {name: (refusal, refused) for name, refused in REFUSED.items()}
    jobs |= {job.__name__: (job, case) for job in (refit, order, bad_number)}
    return run(jobs, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("case", "name"), EXPECTED)
def test_every_rank_refuses_with_the_same_line(answers: dict[str, list[Any]], case: str, name: str) -> None:
    lines = [answers[case][rank][name] for rank in range(WORLD)]
    assert set(lines) == {lines[0]}
    assert EXPECTED[case, name] in lines[0]
    assert bool(lines[0]) == bool(EXPECTED[case, name])


def test_a_stream_reads_the_weights_as_they_are_when_it_is_iterated(answers: dict[str, list[Any]]) -> None:
    assert answers["refit"] == [{"before": [], "after": []}] * WORLD


def test_parts_of_a_weight_and_weights_of_a_layer_come_together(answers: dict[str, list[Any]]) -> None:
    names = answers["order"][0]["names"]
    assert all(answer["names"] == names for answer in answers["order"])
    assert len(names) == len(set(names))
    weights = [name.rpartition(".")[0] for name in names]
    assert set(Counter(weights).values()) == {3}
    assert [weights[i] for i in range(0, len(weights), 3)] == list(dict.fromkeys(weights))
    layers = [name.removeprefix(PREFIX).split(".")[2] if ".layers." in name else "head" for name in weights]
    assert list(dict.fromkeys(layers)) == ["0", "1", "head"]
    assert layers == sorted(layers, key=["0", "1", "head"].index)


def test_names_shapes_and_types_are_known_before_anything_is_quantized(answers: dict[str, list[Any]]) -> None:
    assert all(answer["foretold"] and answer["shapes"] for answer in answers["order"])


def test_wrong_process_groups_are_noticed(answers: dict[str, list[Any]]) -> None:
    for answer in answers["order"]:
        line = answer["wrong groups"]
        assert "'model.layers.1.mlp.experts.0.gate_proj.weight': 1 ranks hold 32768 of its 65536 elements" in line


def test_a_nan_of_any_rank_shows_in_the_scale(answers: dict[str, list[Any]]) -> None:
    assert [answer["rows"] for answer in answers["bad_number"]] == [[5, 9]] * WORLD
