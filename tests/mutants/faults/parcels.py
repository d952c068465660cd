"""A drafter that the trainer quantized and put together in the wrong order."""

from typing import Any

import torch

from tests.mutants.fault import Faults

faults = Faults()
MEGATRON = "nemo_rl_efficientrollout.drafter.megatron."
MODULES = "tests/megatron/test_modules.py::"
SHARED = "tests/engine/test_parcels.py::test_drafter_from_the_trainer_equals_the_engines_own[int8-False]"


@faults.at(
    "nemo_rl_efficientrollout.engine.parcels:_stack", SHARED, "the engine stacks q, k and v (gate and up) backwards"
)
def pieces_stacked_backwards(original: Any) -> Any:
    return lambda pieces: original(pieces[::-1])


@faults.at(
    "nemo_rl_efficientrollout.engine.parcels:Parcels._padded",
    SHARED,
    "the engine pads the head above the vocabulary, not below it",
)
def head_padded_at_the_wrong_end(original: Any) -> Any:
    def broken(parcels: Any, quantized: Any, head: Any) -> Any:
        missing = head.num_embeddings_padded - head.org_vocab_size
        padded = original(parcels, quantized, head)
        return type(padded)(*(None if part is None else part.roll(missing, dims=0) for part in padded))

    return broken


@faults.at(
    MEGATRON + "shards:Shard.weight",
    MODULES + "test_rows_of_query_key_and_value",
    "the trainer sends the rows of query groups in the wrong order",
)
def query_groups_in_wrong_order(original: Any) -> Any:
    def broken(shard: Any) -> Any:
        return torch.cat([shard.parameter.detach()[start:stop] for start, stop in shard.runs[::-1]])

    return broken


@faults.at(
    MEGATRON + "rows:Stack.held",
    MODULES + "test_places_on_the_second_of_two_ranks",
    "every tensor-parallel rank says that its shard is the first",
)
def every_shard_is_the_first(original: Any) -> Any:
    return lambda stack, start, stop: [held._replace(first=0) for held in original(stack, start, stop)]


@faults.at(
    MEGATRON + "linears:_blocks",
    MODULES + "test_grouped_experts_have_their_global_numbers",
    "experts are called by their number on their rank",
)
def experts_by_local_number(original: Any) -> Any:
    def broken(layer: Any, match: Any, module: Any) -> Any:
        for number, (block, attribute) in enumerate(original(layer, match, module)):
            yield (f"mlp.experts.{number}" if block.startswith("mlp.experts.") else block), attribute

    return broken
