"""Dense models in shards: the drafter made of shards is the drafter made of gathered weights, bit for bit."""

from typing import Any

import pytest

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from tests.megatron.shapes import Shape, hf_weights, quantizable
from tests.megatron.worlds import NAMES, WORLD, Case, compare, run

CASES = {
    "one rank": Case(),
    "tensor 2": Case(tensor=2),
    "tensor 4, twice the query groups": Case(tensor=4),
    "pipeline 2": Case(pipeline=2),
    "tensor 2, pipeline 2": Case(tensor=2, pipeline=2),
    "tied": Case(Shape(tied=True), tensor=2),
    "tied, pipeline 2": Case(Shape(tied=True), tensor=2, pipeline=2),
    "biases and no gate": Case(Shape(gated=False, biases=True), tensor=2),
    "no head": Case(tensor=2, vocab=None),
    "one block over all ranks": Case(Shape(head=16, ffn=64), tensor=2, formats=("int4", "int4_symmetric", "int8")),
    "one block over four ranks": Case(Shape(head=32, ffn=512), tensor=4, formats=("int4", "int8", "fp8")),
}
Answers = dict[str, list[Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return run({name: (compare, case) for name, case in CASES.items()}, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("case", "name"), [(c, n) for c in CASES for n in NAMES if n in CASES[c].formats])
def test_shards_quantize_to_the_gathered_weight(answers: Answers, case: str, name: str) -> None:
    gathered = set(quantizable(hf_weights(CASES[case].shape), CASES[case].shape))
    if CASES[case].vocab is None:
        gathered.remove("lm_head.weight")
    pieces: set[str] = set()
    for rank in range(WORLD):
        seen = answers[case][rank][name]
        assert set(seen["names"]) == gathered
        assert seen["wrong"] == []
        assert seen["wrong_pieces"] == []
        assert 0 < seen["error"] <= FORMATS[name].worst_error
        pieces |= set(seen["pieces"])
    assert pieces == gathered


def test_stages_hold_only_their_own_layers(answers: Answers) -> None:
    seen = [answer["int8"]["pieces"] for answer in answers["tensor 2, pipeline 2"]]
    assert [any(name.startswith("model.layers.0.") for name in names) for names in seen] == [True, True, False, False]
    assert [any(name.startswith("model.layers.1.") for name in names) for names in seen] == [False, False, True, True]
    assert [any(name == "lm_head.weight" for name in names) for names in seen] == [False, False, True, True]
