"""Settings: three sources, one meaning; every mistake named in one line."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemo_rl_efficientrollout import Settings, engine_kwargs, read_settings
from nemo_rl_efficientrollout.config import parse_overrides, read_gate
from nemo_rl_efficientrollout.engine import versions
from nemo_rl_efficientrollout.errors import LONGEST_LINE, SettingsError, UnsupportedError, UserError

BLOCK = {"drafter": {"format": "bf16"}, "draft_length": {"max": 3}, "gate": {"mode": "fixed", "draft_length": 2}}


def test_mapping_omegaconf_and_engine_config_read_the_same() -> None:
    from_mapping = read_settings(BLOCK)
    assert read_settings(OmegaConf.create({"base": 3, "block": BLOCK}).block) == from_mapping
    assert read_settings(engine_kwargs("m", BLOCK)["additional_config"]["efficientrollout"]) == from_mapping
    assert read_settings(from_mapping) is from_mapping
    assert read_settings(None) == read_settings({}) == Settings()


def test_omegaconf_interpolations_are_resolved() -> None:
    node = OmegaConf.create({"longest": 7, "block": {"draft_length": {"max": "${longest}"}}})
    assert read_settings(node.block).draft_length.max == 7


def test_engine_kwargs_are_exactly_what_vllm_needs() -> None:
    answer = engine_kwargs("some/model", {"drafter": {"format": "int8"}, "draft_length": {"max": 5}})
    assert set(answer) == {"speculative_config", "scheduler_cls", "additional_config"}
    assert answer["speculative_config"] == {
        "method": "draft_model",
        "model": "some/model",
        "num_speculative_tokens": 5,
        "draft_sample_method": "probabilistic",
        "rejection_sample_method": "standard",
    }


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ({"draftlength": {"max": 2}}, ["'draftlength'", "did you mean 'draft_length'"]),
        ({"draft_length": {"maximum": 2}}, ["'draft_length.maximum'", "did you mean 'draft_length.max'"]),
        ({"draft_length": {"max": 0}}, ["'draft_length.max'", "greater than or equal to 1", "got 0"]),
        ({"draft_length": {"max": -3}}, ["'draft_length.max'", "got -3"]),
        ({"draft_length": {"max": 99}}, ["'draft_length.max'", "32"]),
        ({"draft_length": {"max": "many"}}, ["'draft_length.max'", "'many'"]),
        ({"drafter": {"format": "int3"}}, ["'drafter.format'", "'fp8_block' or 'bf16'", "'int3'"]),
        ({"gate": {"mode": "fixed"}}, ["gate.draft_length"]),
        ({"gate": {"draft_length": 2}}, ["gate.draft_length", "'fixed' only"]),
        ({"draft_length": {"max": 2}, "gate": {"mode": "fixed", "draft_length": 3}}, ["above draft_length.max = 2"]),
        ({"refit": {"refresh": "never"}}, ["'refit.refresh'", "'every' or 'on_evidence'"]),
        ({"refit": {"refresh": "on_evidence", "quantize_on": "trainer"}}, ["refit.refresh", "refit.quantize_on"]),
        ({"drafter": 3}, ["'drafter'"]),
        ("int8", ["must be a mapping", "str"]),
        ([1], ["must be a mapping", "list"]),
    ],
)
def test_every_mistake_is_one_line_that_names_the_key(block: Any, parts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(block)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_settings_cannot_be_changed_after_validation() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().strict = True  # type: ignore[misc]


def test_a_gate_arriving_at_run_time_is_checked_against_the_reserved_slots() -> None:
    assert read_gate({"mode": "fixed", "draft_length": 4}, 4).draft_length == 4
    with pytest.raises(SettingsError, match=r"draft_length\.max = 3"):
        read_gate({"mode": "fixed", "draft_length": 4}, 3)


def test_overrides_nest_and_keep_json_types() -> None:
    pairs = ["gate.mode=fixed", "gate.draft_length=2", "strict=true", "drafter.format=bf16"]
    assert parse_overrides(pairs) == {
        "gate": {"mode": "fixed", "draft_length": 2},
        "strict": True,
        "drafter": {"format": "bf16"},
    }


@pytest.mark.parametrize("pairs", [["gate.mode"], ["=3"], ["gate=1", "gate.mode=off"]])
def test_malformed_overrides_are_named(pairs: list[str]) -> None:
    with pytest.raises(SettingsError, match="setting '"):
        parse_overrides(pairs)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_no_override_ever_raises_anything_but_a_user_error(pairs: list[str]) -> None:
    with contextlib.suppress(UserError):  # anything else fails the test
        read_settings(parse_overrides(pairs))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["drafter", "draft_length", "gate", "strict", "x"]), json_values))
def test_no_block_ever_raises_anything_but_a_user_error(block: dict[str, Any]) -> None:
    with contextlib.suppress(UserError):
        read_settings(block)


def test_unsupported_vllm_means_plain_decoding_with_a_warning_or_an_error_if_strict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "installed_vllm", lambda: "0.31.0")
    with pytest.warns(UserWarning, match=r"vLLM 0\.31\.0 is not supported: install one of 0\.25\.1, 0\.32\.0"):
        assert engine_kwargs("m") == {}
    with pytest.raises(UnsupportedError, match=r"0\.31\.0"):
        engine_kwargs("m", {"strict": True})
    monkeypatch.setattr(versions, "installed_vllm", lambda: None)
    with pytest.raises(UnsupportedError, match="not installed"):
        engine_kwargs("m", {"strict": True})


def test_an_unquoted_off_in_yaml_is_the_mode_off() -> None:
    assert read_settings({"gate": {"mode": False}}).gate.mode == "off"


def test_an_interpolation_that_leads_nowhere_is_named() -> None:
    node = OmegaConf.create({"block": {"strict": "${nowhere}"}})
    with pytest.raises(SettingsError, match="nowhere"):
        read_settings(node.block)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "a" + ".a" * 5000], ids=range(3))
def test_texts_without_end_are_refused_in_one_line(text: str) -> None:
    for pair in (f"gate.seed={text}", f"{text}=1", f"gate.seed.{text}=1"):
        with pytest.raises(SettingsError) as refusal:
            read_settings(parse_overrides([pair]))
        assert len(str(refusal.value)) <= LONGEST_LINE


@pytest.mark.parametrize(
    "block", [{"draft_length": {"max_requests": 10**5000}}, {"gate": {"seed": 2**63}}], ids=range(2)
)
def test_numbers_that_no_engine_takes_are_refused(block: Any) -> None:
    with pytest.raises(SettingsError, match="less than"):
        read_settings(block)
