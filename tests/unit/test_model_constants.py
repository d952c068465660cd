"""What an architecture implies, against hand-computed and published numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.model_constants import ModelConstants, read_model_constants, seeded, sharpened
from nemo_rl_efficientrollout.gate.prior import Prior, hypotheses
from nemo_rl_efficientrollout.simulate.roofline import static
from tests.sweeps import QWEN_7B

CONSTANTS = ModelConstants.model_validate(QWEN_7B)


def write(folder: Path, change: dict[str, Any]) -> Path:
    content = {key: value for key, value in (QWEN_7B | change).items() if value is not ...}
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def test_bytes_that_the_drafter_reads_over_those_of_the_target() -> None:
    """0.260 without the lm_head, 0.317 with one in BF16: computed from the architecture by others, too."""
    assert CONSTANTS.draft_ratio() == pytest.approx((4 + 20 / 128) / 16)
    assert CONSTANTS.draft_ratio() == pytest.approx(0.260, abs=5e-4)
    assert CONSTANTS.draft_ratio(lm_head=True) == pytest.approx(0.317, abs=5e-4)


def test_eight_bits_have_no_group_scales() -> None:
    assert ModelConstants.model_validate(QWEN_7B | {"quant_ratio": 0.5}).draft_ratio() == 0.5


def test_kv_and_attention_in_units_of_reading_the_weights() -> None:
    weights = 2 * 6_525_288_448  # bytes of all linear layers
    assert CONSTANTS.target_bytes() == weights
    assert CONSTANTS.kv_per_ktoken() == pytest.approx(57_344_000 / weights)
    # A query over 1000 tokens costs 401 MFLOP, a row of GEMMs 13 GFLOP, and 128 rows what reading the weights does.
    assert CONSTANTS.attention_per_ktoken(128.0) == pytest.approx(401_408_000 / (2 * weights / 2) / 128)
    assert CONSTANTS.attention_per_ktoken(64.0) == 2 * CONSTANTS.attention_per_ktoken(128.0)


def test_tensor_parallel_shares_all_but_a_lone_kv_head() -> None:
    half = ModelConstants.model_validate(QWEN_7B | {"tp": 2})
    assert half.target_bytes(True) == CONSTANTS.target_bytes(True) / 2
    assert half.kv_per_ktoken() == pytest.approx(CONSTANTS.kv_per_ktoken())
    eight = ModelConstants.model_validate(QWEN_7B | {"tp": 7})
    assert eight.kv_per_ktoken() == pytest.approx(CONSTANTS.kv_per_ktoken() * 7 / 4)


def test_the_published_numbers_are_reproduced_by_their_own_formulas() -> None:
    """Embedding table and lm_head counted, scales not: why they are not used here."""
    own = static(CONSTANTS)
    assert (own.target_bytes, own.drafter_bytes) == (15_230_974_976.0, 5_443_042_304.0)
    assert (own.kv_bytes, own.dense_flops, own.attention_flops) == (57_344, 14_140_571_648.0, 401_408.0)


def test_sharpened_keeps_ridges_and_narrows_the_drafter() -> None:
    priors = hypotheses(Prior(plain_seconds=0.01), (64.0, 128.0), (0.3, 0.5, 0.8))
    sharp = sharpened(priors, CONSTANTS)
    assert {prior.ridge_rows for prior in sharp} == {64.0, 128.0}
    assert {prior.plain_seconds for prior in sharp} == {0.01}
    ratios = {prior.draft_ratio for prior in sharp}
    assert min(ratios) == CONSTANTS.draft_ratio()
    assert max(ratios) == 2.5 * CONSTANTS.draft_ratio()
    assert {prior.kv_per_ktoken for prior in sharp} == {priors[0].kv_per_ktoken, CONSTANTS.kv_per_ktoken()}
    assert len(set(sharp)) == len(sharp) == 2 * 2 * 3


def test_derived_numbers_of_the_file_are_not_read(tmp_path: Path) -> None:
    assert read_model_constants(write(tmp_path, {"W_t": "nonsense", "rho": -1})) == CONSTANTS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"D": ...}, "no key 'D'"),
        ({"quant_ratio": ...}, "no key 'quant_ratio'"),
        ({"L": 0}, "L is 0"),
        ({"D_ff": -18944}, "D_ff is -18944"),
        ({"V": 1.5}, "V is 1.5"),
        ({"n_kv": "4"}, "n_kv is '4'"),
        ({"n_kv": 5}, "n_heads 28 is no multiple of n_kv 5"),
        ({"n_kv": 56}, "n_heads 28 is no multiple of n_kv 56"),
        ({"tp": 8}, "does not divide among tp 8"),
        ({"quant_ratio": 0.0}, "quant_ratio is 0.0"),
        ({"quant_ratio": 2.0}, "quant_ratio is 2.0"),
        ({"quant_ratio": float("nan")}, "quant_ratio is nan"),
    ],
)
def test_absurd_architectures_are_one_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read_model_constants(write(tmp_path, change))
    assert expected in str(caught.value)
    assert "m.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "expected"), [("{", "not valid"), ("[1]", "no JSON object"), (None, "cannot")])
def test_files_that_are_none_are_one_line(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_model_constants(tmp_path / "m.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ratio", "drafter"), [(0.25, 0.25 * 1.3), (1.0, 1.0)])
def test_a_gemm_curve_and_an_architecture_are_a_prior(ratio: float, drafter: float) -> None:
    constants = ModelConstants.model_validate({**QWEN_7B, "tp": 2, "quant_ratio": ratio})
    curve = [(1, 0.010), (64, 0.012)]
    blind, sharp = seeded(constants, curve, None), seeded(constants, curve, 100.0, all_reduce_latency_s=1e-5)
    assert (blind.plain_seconds, blind.curve, blind.ridge_rows) == (0.010, tuple(curve), 128.0)
    assert blind.draft_ratio == pytest.approx(drafter)
    assert sharp.ridge_rows == 100.0
    assert sharp.attention_per_ktoken == constants.attention_per_ktoken(100.0, lm_head=True)
    assert sharp.all_reduce_s == pytest.approx(2 * 28 * 1e-5)
    assert seeded(constants, curve[:1], None).curve == ()
