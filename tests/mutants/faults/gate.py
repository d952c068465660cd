"""A gate that breaks its promises: never slower, within limits, on a budget."""

from dataclasses import replace
from typing import Any

import numpy as np

from tests.mutants.fault import Faults

faults = Faults()
GATE = "nemo_rl_efficientrollout.gate."
UNIT = "tests/unit/test_gate.py::"


@faults.at(
    GATE + "policy:AutoGate.choose",
    UNIT + "test_goes_to_the_longest_draft_and_not_beyond",
    "γ is one above the longest that slots are reserved for",
)
def draft_length_above_the_largest(original: Any) -> Any:
    def broken(gate: Any, load: Any) -> int:
        length = original(gate, load)
        return length + 1 if length else 0

    return broken


@faults.at(
    GATE + "policy:AutoGate.choose",
    UNIT + "test_no_input_makes_it_raise_or_overreach",
    "a load that is no load, such as a context of NaN tokens, is taken for one request",
)
def unsound_loads_are_decided_on(original: Any) -> Any:
    from nemo_rl_efficientrollout.gate.policy import Load, _sound

    return lambda gate, load: original(gate, load if _sound(load) else Load(1, 500.0))


@faults.at(
    GATE + "acceptance:Acceptance.rates",
    "tests/unit/test_acceptance.py::test_converges_by_position",
    "acceptance is taken to be 1",
)
def acceptance_taken_for_one(original: Any) -> Any:
    return lambda record, context=0.0: np.ones_like(original(record, context))


@faults.at(
    GATE + "acceptance:Acceptance.observe",
    UNIT + "test_is_never_slower_than_plain_decoding[0.3-2]",
    "rejections do not lower the acceptance that the gate believes in",
)
def rejections_are_forgotten(original: Any) -> Any:
    return lambda record, drafted, accepted, contexts: original(record, drafted, drafted, contexts)


@faults.at(
    GATE + "acceptance:Acceptance.observe",
    "tests/unit/test_acceptance.py::test_a_short_draft_counts_by_its_own_length",
    "a short draft counts as a long one that was rejected",
)
def short_drafts_count_as_rejected(original: Any) -> Any:
    def broken(record: Any, drafted: Any, accepted: Any, contexts: Any) -> None:
        original(record, [record._reached.shape[1]] * len(drafted), accepted, contexts)

    return broken


@faults.at(
    GATE + "acceptance:Acceptance.refit",
    "tests/unit/test_acceptance.py::test_starts_optimistic_and_refit_weakens_the_past",
    "after a refit the old drafter's acceptance is believed in full",
)
def refit_changes_no_belief(original: Any) -> Any:
    return lambda record: None


@faults.at(
    GATE + "online:Tracker.observe",
    UNIT + "test_follows_a_drift_of_the_costs",
    "the cost model learns from the first steps alone, and does not follow a slowdown",
)
def slowdown_not_followed(original: Any) -> Any:
    def broken(tracker: Any, *step: Any) -> None:
        if tracker._steps < 200:
            original(tracker, *step)

    return broken


@faults.at(
    GATE + "online:Tracker._stay_possible",
    "tests/unit/test_online.py::test_what_plain_steps_told_outlasts_what_drafts_tell",
    "terms below zero are cut off, which adds time to every step that has them",
)
def impossible_terms_are_cut_off(original: Any) -> Any:
    def broken(tracker: Any) -> None:
        np.maximum(tracker.mean, 0.0, out=tracker.mean)

    return broken


@faults.at(
    GATE + "online:SHARED",
    "tests/unit/test_online.py::test_a_neighbour_slows_what_it_was_not_seen_to_slow",
    "a machine that slows down is learned apart for plain steps and for drafts",
)
def speed_is_not_shared(original: Any) -> Any:
    return 0.0


@faults.at(
    GATE + "acceptance:_pooled_rate",
    "tests/unit/test_acceptance.py::test_bad_luck_at_first_is_not_taken_for_a_bad_drafter_and_a_broken_one_is_soon_known",
    "a drafter is judged by its first few tokens",
)
def first_tokens_decide(original: Any) -> Any:
    return lambda accepted, rejected: (accepted + 0.9) / (accepted + rejected + 1.0)


@faults.at(
    GATE + "probing:Probing._spend",
    UNIT + "test_probes_get_rarer_while_nothing_changes",
    "probes cost nothing of their budget",
)
def probing_without_budget(original: Any) -> Any:
    def broken(probing: Any, seconds: float) -> None:
        probing.spent += seconds

    return broken


@faults.at(
    GATE + "probing:Probing.confirms_plain",
    UNIT + "test_plain_decoding_is_measured_again_where_speculation_is_believed_to_pay",
    "while it speculates, plain decoding is never measured again",
)
def plain_decoding_never_confirmed(original: Any) -> Any:
    return lambda probing, *load: False


@faults.at(
    GATE + "policy:AutoGate.observe",
    UNIT + "test_learning_waits_for_plain_steps_and_the_trace_says_why",
    "the time of a step with prefills is taken for a decode time",
)
def prefills_taken_for_decodes(original: Any) -> Any:
    return lambda gate, step: original(gate, replace(step, decode_only=True))
