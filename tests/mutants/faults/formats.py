"""Number formats whose codes, scales or packing are not what the kernels read."""

from typing import Any

import torch

from tests.mutants.fault import Faults

faults = Faults()
DRAFTER = "nemo_rl_efficientrollout.drafter."
UNIT = "tests/unit/test_formats.py::"


@faults.at(DRAFTER + "formats.int4:Int4.scales", UNIT + "test_int4_by_hand", "the zero point of int4 is one too high")
def wrong_zero_point(original: Any) -> Any:
    def broken(form: Any, extent: Any, dtype: Any) -> Any:
        scales = original(form, extent, dtype)
        return scales._replace(zero=(scales.zero + 1).clamp(max=15))

    return broken


@faults.at(
    DRAFTER + "formats.int4:Int4.dequantize",
    UNIT + "test_codes_use_their_range_and_nothing_beyond[dtype0-int4]",
    "int4 is read without its zero points",
)
def zero_points_ignored(original: Any) -> Any:
    return lambda form, quantized: original(form, quantized._replace(zero=torch.full_like(quantized.zero, 8)))


@faults.at(
    DRAFTER + "formats.format:ScaledFormat.encode",
    UNIT + "test_error_is_at_most_the_promised_number_of_scales[dtype0-int8]",
    "scales are rounded to BF16 after codes were made with the exact ones",
)
def scale_rounded(original: Any) -> Any:
    def broken(form: Any, weight: Any, extent: Any) -> Any:
        quantized = original(form, weight, extent)
        return quantized._replace(scale=quantized.scale.bfloat16().to(quantized.scale.dtype))

    return broken


@faults.at(
    DRAFTER + "formats.format:ScaledFormat.encode",
    UNIT + "test_int8_by_hand",
    "a block has the scale of the block above",
)
def scale_of_the_neighbour(original: Any) -> Any:
    def broken(form: Any, weight: Any, extent: Any) -> Any:
        quantized = original(form, weight, extent)
        return quantized._replace(scale=quantized.scale.roll(1, dims=0))

    return broken


@faults.at(
    "nemo_rl_efficientrollout.engine.kernels.int8:Int8Linear.lay_out",
    "tests/engine/test_formats.py::test_kernel_computes_with_the_weights_of_the_specification[int8]",
    "a layer's kernel computes with the scales of another layer",
)
def scale_of_another_layer(original: Any) -> Any:
    seen: dict[Any, Any] = {}

    def broken(linear: Any, quantized: Any, dtype: Any) -> Any:
        other = seen.setdefault(quantized.scale.shape, quantized.scale.clone())
        return original(linear, quantized._replace(scale=other.clone()), dtype)

    return broken


@faults.at(
    DRAFTER + "packing:pack_int4",
    "tests/unit/test_packing.py::test_the_lowest_nibble_is_the_first_column",
    "the two halves of every byte of int4 codes are swapped",
)
def nibbles_swapped(original: Any) -> Any:
    return lambda codes: original(codes.unflatten(1, (-1, 2)).flip(2).flatten(1))


@faults.at(
    DRAFTER + "formats.fp8:Fp8.round_",
    UNIT + "test_fp8_saturates_where_the_extent_was_too_small",
    "fp8 does not saturate: what is too large becomes NaN",
)
def fp8_overflows(original: Any) -> Any:
    from nemo_rl_efficientrollout.drafter.formats.format import spread

    def broken(form: Any, blocks: Any, scales: Any) -> Any:
        scaled = blocks.mul_(spread(scales.factor))
        return scaled.masked_fill(scaled.abs() > 448, torch.nan)

    return broken
