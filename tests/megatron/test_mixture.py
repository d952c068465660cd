"""Mixtures of experts in shards: experts under their global numbers, whoever holds them."""

from typing import Any

import pytest

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from tests.megatron.shapes import Shape, hf_weights, quantizable
from tests.megatron.worlds import NAMES, WORLD, Case, compare, run

MIXTURE = Shape(experts=4)
SMALL = Shape(experts=4, expert_ffn=64)
CASES = {
    "one rank": Case(Shape(experts=4, shared_ffn=256)),
    "experts 2": Case(MIXTURE, experts=2),
    "experts 4": Case(MIXTURE, experts=4),
    "tensor 2, whole experts": Case(MIXTURE, tensor=2, experts=2),
    "tensor 2, experts 2 over data": Case(Shape(experts=4, shared_ffn=256), tensor=2, experts=4),
    "tensor 2, split experts": Case(MIXTURE, tensor=2, expert_tensor=2),
    "all": Case(Shape(experts=4, shared_ffn=256), tensor=2, experts=2, expert_tensor=2),
    "pipeline 2, experts 2": Case(MIXTURE, pipeline=2, experts=2),
    "a block over split experts": Case(
        SMALL, tensor=2, experts=2, expert_tensor=2, formats=("int4", "int4_symmetric", "int8", "fp8")
    ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return run({name: (compare, case) for name, case in CASES.items()}, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("case", "name"), [(c, n) for c in CASES for n in NAMES if n in CASES[c].formats])
def test_shards_quantize_to_the_gathered_weight(answers: dict[str, list[Any]], case: str, name: str) -> None:
    gathered = set(quantizable(hf_weights(CASES[case].shape), CASES[case].shape))
    assert sum(".experts." in name for name in gathered) == 4 * 3
    for rank in range(WORLD):
        seen = answers[case][rank][name]
        assert set(seen["names"]) == gathered
        assert seen["wrong"] == []
        assert seen["wrong_pieces"] == []
        assert 0 < seen["error"] <= FORMATS[name].worst_error


def test_ranks_hold_only_their_own_experts(answers: dict[str, list[Any]]) -> None:
    held = [answer["int8"]["pieces"] for answer in answers["experts 4"]]
    for rank, names in enumerate(held):
        assert {name.split(".")[5] for name in names if ".experts." in name} == {str(rank)}
