"""Where theory says which way a decision must move, it moves that way."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.regret import by_model, speedups
from nemo_rl_efficientrollout.gate.terms import Terms

LENGTHS = tuple(range(16))
TERMS = Terms()


def model(theta: np.ndarray) -> CostModel:
    return CostModel(TERMS, theta, np.zeros((TERMS.size, TERMS.size)), 0.01)


thetas = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).lognormal(-6.0, 2.0, TERMS.size))


@given(thetas, st.integers(1, 300), st.floats(0, 1e5), st.floats(0, 0.999), st.floats(0, 0.999))
@settings(max_examples=150, deadline=None)
def test_higher_acceptance_never_shortens_the_best_draft(
    theta: np.ndarray, batch: int, context: float, one: float, other: float
) -> None:
    best = by_model(model(theta))
    low, high = sorted((one, other))
    assert best(batch, context, low, LENGTHS) <= best(batch, context, high, LENGTHS)


@given(
    weights=st.floats(1e-4, 1.0),
    drafter=st.floats(0.01, 1.0),
    kv=st.floats(1e-7, 1e-2),
    batch=st.integers(1, 300),
    alpha=st.floats(0, 0.999),
    contexts=st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)),
)
@settings(max_examples=150, deadline=None)
def test_longer_contexts_never_raise_the_gain_where_every_pass_reads_the_same_cache(
    weights: float, drafter: float, kv: float, batch: int, alpha: float, contexts: tuple[float, float]
) -> None:
    """With d ≤ 1 the gain τ (w + x) / (γ (d w + x) + w + x) falls as KV reads x grow."""
    theta = np.zeros(TERMS.size)
    theta[TERMS.names.index("target.weights_s")] = weights
    theta[TERMS.names.index("draft.self.weights_s")] = drafter * weights
    for block in ("plain", "verify", "draft.self"):
        theta[TERMS.names.index(f"{block}.kv_s_per_ktoken")] = kv
    short, long = (max(speedups(model(theta), batch, context, alpha, LENGTHS).values()) for context in sorted(contexts))
    assert long <= short * (1.0 + 1e-9)


@given(thetas, st.integers(1, 300), st.floats(0, 1e5))
@settings(max_examples=50, deadline=None)
def test_nothing_accepted_means_nothing_drafted(theta: np.ndarray, batch: int, context: float) -> None:
    theta = theta.copy()
    theta[TERMS.block("plain")] = np.minimum(theta[TERMS.block("plain")], theta[TERMS.block("verify")][:4])
    assert by_model(model(theta))(batch, context, 0.0, LENGTHS) == 0
