"""The cost model: its terms, its fit from few and faulty timings, its choice of what to measure."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.gate.action import actions
from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.design import choose
from nemo_rl_efficientrollout.gate.fit import fit, generic_priors, most_likely
from nemo_rl_efficientrollout.gate.prior import Prior
from nemo_rl_efficientrollout.gate.terms import KNOTS, Kind, Padding, Terms
from nemo_rl_efficientrollout.gate.timing import Timing

BATCHES, CONTEXTS, LENGTHS = (1, 2, 4, 8, 16, 32, 64), (256, 1024, 4096), (3, 7, 15)
ACTIONS = actions(LENGTHS)


def true_model(ridge: float = 100.0, draft: float = 0.45, padding: Padding | None = None) -> CostModel:
    terms = Terms(padding=padding)
    prior = Prior(0.01, ridge_rows=ridge, draft_ratio=draft, kv_per_ktoken=0.003)
    return CostModel(terms, prior.mean(terms), np.zeros((terms.size, terms.size)), 0.0)


def sweep(model: CostModel, noise: float = 0.02, seed: int = 0) -> list[Timing]:
    rng = np.random.default_rng(seed)
    points: list[tuple[Kind, int, int, int]] = []
    for batch in BATCHES:
        for context in CONTEXTS:
            points.append(("plain", batch, context, 0))
            for length in LENGTHS:
                points.append(("draft", batch, context, length))
                points.append(("verify", batch, context, length))
    return [Timing(*point, model.seconds(*point) * float(np.exp(rng.normal(0.0, noise)))) for point in points]


def worst_cycle_error(fitted: CostModel, true: CostModel) -> float:
    errors = [
        np.abs(fitted.cycles(batch, context, ACTIONS) / true.cycles(batch, context, ACTIONS) - 1.0).max()
        for batch in BATCHES
        for context in CONTEXTS
    ]
    return float(max(errors))


def test_a_cycle_is_its_parts() -> None:
    model = true_model()
    parts = model.seconds("verify", 8, 1000, 5) + 5 * model.seconds("draft", 8, 1000, 5)
    assert model.seconds("cycle", 8, 1000, 5) == pytest.approx(parts)
    assert model.cycles(8, 1000, ACTIONS)[0] == pytest.approx(model.seconds("plain", 8, 1000))
    assert model.terms.step(8, 1000, 5, 5) @ model.mean == pytest.approx(parts)
    assert model.terms.step(8, 1000, 0, 5) @ model.mean == pytest.approx(
        model.seconds("plain", 8, 1000) + 5 * model.seconds("draft", 8, 1000, 5)
    )


def test_attention_of_a_verification_grows_with_its_queries() -> None:
    terms = Terms()
    place = terms.names.index("verify.attention_s_per_ktoken")
    assert terms.vector("verify", 4, 2000, 7)[place] == pytest.approx(4 * 2.0 * 8)
    assert terms.vector("plain", 4, 2000)[place] == 0.0


def test_every_term_has_a_name_with_a_unit() -> None:
    terms = Terms(("self", "eagle"))
    assert len(terms.names) == len(set(terms.names)) == terms.size
    assert all(name.endswith(("_s", "_s_per_ktoken")) for name in terms.names)
    assert terms.names[terms.block("draft.eagle")][0] == "draft.eagle.weights_s"
    assert terms.block("draft.eagle").stop == terms.size


def test_rows_pad_to_captured_sizes() -> None:
    padding = Padding(captured_rows=(1, 8, 16))
    assert [padding.target(rows) for rows in (1, 2, 8, 9, 17)] == [1, 8, 8, 16, 17]
    assert Padding(draft_to_cycle=True).draft(16, 11) == 24
    assert Padding(draft_to_cycle=True).draft(16, 3) == 16
    flat = Terms(padding=padding)
    assert (flat.vector("plain", 2, 0.0)[:22] == flat.vector("plain", 8, 0.0)[:22]).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1e5), st.integers(0, 15))
@settings(max_examples=60)
def test_more_rows_or_more_context_never_cost_less(one: int, other: int, context: float, length: int) -> None:
    model, (small, large) = true_model(), sorted((one, other))
    kind: Kind = "verify" if length else "plain"
    assert model.seconds(kind, small, context, length) <= model.seconds(kind, large, context, length) + 1e-12
    assert model.seconds(kind, small, context, length) <= model.seconds(kind, small, context + 1.0, length)
    assert model.seconds("verify", small, context, length + 1) <= model.seconds("verify", small, context, length + 2)


def test_all_reduces_grow_with_the_message() -> None:
    terms = Terms()
    alone = Prior(0.01, ridge_rows=1e6)
    shared = replace(alone, all_reduce_s=1e-3, all_reduce_s_per_row=1e-5)
    extra = shared.mean(terms) - alone.mean(terms)
    assert terms.vector("plain", 1, 0) @ extra == pytest.approx(1e-3)
    assert terms.vector("verify", 8, 0, 7) @ extra == pytest.approx(1e-3 + 63e-5)
    assert terms.vector("draft", 8, 0, 7) @ extra == pytest.approx(1e-3 + 7e-5)


def test_beyond_the_last_knot_compute_goes_on() -> None:
    model = true_model()
    last, beyond = model.seconds("plain", KNOTS[-1], 0), model.seconds("plain", 2 * KNOTS[-1], 0)
    assert beyond > 1.8 * last


def test_fit_recovers_the_truth_from_a_noisy_sweep() -> None:
    true = true_model()
    fitted = fit(sweep(true))
    assert worst_cycle_error(fitted.model, true) < 0.05
    assert fitted.model.noise == pytest.approx(0.02, rel=0.4)


def test_fit_recovers_the_truth_from_whole_cycles_alone() -> None:
    true = true_model()
    rng = np.random.default_rng(0)
    timings = [t for t in sweep(true) if t.kind == "plain"]
    for batch in BATCHES:
        for context in CONTEXTS:
            for length in LENGTHS:
                seconds = true.seconds("cycle", batch, context, length) * float(np.exp(rng.normal(0, 0.02)))
                timings.append(Timing("cycle", batch, context, length, seconds))
    assert worst_cycle_error(fit(timings).model, true) < 0.06


def test_mislabelled_rows_lose_their_weight() -> None:
    true = true_model()
    timings = sweep(true)
    wrong = [5, 40, 77, 101, 130]
    for i in wrong:
        timings[i] = Timing(
            timings[i].kind, timings[i].batch, timings[i].context, timings[i].draft_length, 2.2 * timings[i].seconds
        )
    fitted = fit(timings)
    assert worst_cycle_error(fitted.model, true) < 0.06
    assert fitted.weights[wrong].max() < 0.1 < fitted.weights[[i for i in range(60) if i not in wrong]].min()


def test_fit_finds_padding() -> None:
    padded = Padding(draft_to_cycle=True)
    assert fit(sweep(true_model(padding=padded, ridge=20.0))).model.terms.padding == padded
    assert fit(sweep(true_model(ridge=20.0))).model.terms.padding == Padding()


def test_with_few_timings_rivals_count_by_the_root_of_their_posterior() -> None:
    timings = sweep(true_model())[::40]
    fits = {prior: fit(timings, [prior], [Padding()]) for prior in generic_priors(timings)}
    best, rival = sorted(fits, key=lambda prior: fits[prior].misfit)[:2]
    share = 1.0 / (1.0 + np.exp(-(fits[rival].misfit - fits[best].misfit) / 4.0))
    assert share < 0.95
    both = fit(timings, [rival, best], [Padding()])
    assert both.model.mean == pytest.approx(share * fits[best].model.mean + (1 - share) * fits[rival].model.mean)
    assert both.prior == best
    assert most_likely(timings, [rival, best]).prior == best


def test_with_many_timings_one_hypothesis_wins() -> None:
    timings = sweep(true_model())
    assert worst_cycle_error(fit(timings).model, most_likely(timings).model) < 1e-3


def test_stated_deviation_covers_the_error() -> None:
    true = true_model()
    z = []
    for seed in range(5):
        model = fit(sweep(true, seed=seed)).model
        for batch in BATCHES:
            for length in LENGTHS:
                error = model.seconds("cycle", batch, 1024, length) - true.seconds("cycle", batch, 1024, length)
                z.append(error / model.deviation("cycle", batch, 1024, length))
    assert 0.2 < np.std(z) < 2.0


def test_own_choice_of_points_beats_random_ones() -> None:
    own, random = [], []
    for seed in range(4):
        true = true_model(ridge=60.0)
        timings = sweep(true, seed=seed)
        chosen = list(choose(timings, 20, ACTIONS))
        assert len(set(chosen)) == 20
        assert timings[chosen[0]].kind == "plain"
        own.append(worst_cycle_error(fit([timings[i] for i in chosen]).model, true))
        picks = [0, *np.random.default_rng(seed).choice(range(1, len(timings)), 19, replace=False)]
        random.append(worst_cycle_error(fit([timings[i] for i in picks]).model, true))
    assert np.mean(own) < 0.8 * np.mean(random)
    assert np.mean(own) < 0.12


def test_what_is_the_same_to_the_model_is_measured_at_every_draft_length() -> None:
    timings = sweep(true_model())
    drafts = [timings[i].draft_length for i in choose(timings, 20, ACTIONS) if timings[i].kind == "draft"]
    assert len(drafts) > 5
    counts = [drafts.count(length) for length in LENGTHS]
    assert min(counts) > 0
    assert max(counts) <= len(drafts) // 2


def test_few_timings_are_not_believed_to_be_as_exact_as_they_can_be_explained() -> None:
    noises = []
    for seed in range(6):
        timings = sweep(true_model(ridge=60.0), noise=0.06, seed=seed)
        picks = np.random.default_rng(seed).choice(range(1, len(timings)), 23, replace=False)
        noises.append(fit([timings[i] for i in (0, *picks)]).model.noise)
    assert np.mean(noises) > 0.025


def test_choice_looks_at_no_time_that_it_has_not_asked_for() -> None:
    timings = sweep(true_model())
    chosen = list(choose(timings, 12, ACTIONS))
    blind = [
        t if i in chosen else Timing(t.kind, t.batch, t.context, t.draft_length, 123.0) for i, t in enumerate(timings)
    ]
    assert list(choose(blind, 12, ACTIONS)) == chosen


def test_fit_wants_timings() -> None:
    with pytest.raises(ValueError, match="no timings"):
        fit([])
    with pytest.raises(ValueError, match="plain"):
        fit([Timing("draft", 1, 100, 3, 0.01)])
