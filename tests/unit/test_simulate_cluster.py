"""Around the replay: many engines, the training loop, and lengths from published completions."""

import numpy as np
import pytest

from nemo_rl_efficientrollout.simulate import Fixed, Phases, at_once, cluster, replay, train
from nemo_rl_efficientrollout.simulate.completions import completion_seconds, lengths

from .test_simulate import ACCEPTANCE, COSTS, workload


def test_a_cluster_waits_for_its_slowest_engine() -> None:
    work = workload(3, requests=16)
    rollouts = [replay(part, COSTS, ACCEPTANCE, Fixed(0)) for part in cluster.split(work, 4)]
    makespan = cluster.run(work, 4, COSTS, lambda part, costs: replay(part, costs, ACCEPTANCE, Fixed(0)))
    assert makespan.seconds == pytest.approx([rollout.seconds for rollout in rollouts])
    assert makespan.tokens == work.tokens
    slow = cluster.run(
        work, 4, COSTS, lambda part, costs: replay(part, costs, ACCEPTANCE, Fixed(0)), slowness=(1.0, 3.0, 1.0, 1.0)
    )
    assert slow.seconds[1] == pytest.approx(3.0 * makespan.seconds[1])
    assert slow.longest == max(slow.seconds)
    assert slow.waiting > makespan.waiting


def test_groups_stay_together_and_no_request_is_lost() -> None:
    work = at_once(np.arange(20), np.arange(1, 21), samples=4)
    parts = list(cluster.split(work, 3))
    assert np.concatenate([part.response for part in parts]).tolist() == work.response.tolist()
    assert [len(part) for part in parts] == [8, 8, 4]
    assert len(list(cluster.split(work, 64))) == 5  # the other engines have nothing to do


def test_synchronous_steps_add_up_and_asynchronous_ones_overlap() -> None:
    phases = Phases(logprobs=1.0, training=3.0, refit=0.5)
    sync = train([10.0] * 4, phases)
    assert sync.seconds == pytest.approx(4 * 14.0 + 3 * 0.5)
    assert sync.step_seconds == pytest.approx(14.5)
    overlapped = train([10.0] * 8, phases, lag=1)
    assert overlapped.step_seconds == pytest.approx(10.5)
    training_bound = train([1.0] * 8, phases, lag=1)
    assert training_bound.step_seconds == pytest.approx(4.5)
    for i in range(2, 8):  # no rollout uses weights that are not there
        assert overlapped.rollout_start[i] >= overlapped.training_end[i - 2] + phases.refit


def test_lengths_from_completions_complete_then() -> None:
    knots = ((0.5, 13.0), (0.9, 22.0), (0.99, 30.0), (1.0 - 0.5 / 256, 60.0))
    found = lengths(knots, COSTS, requests=32, engines=8, prompt=0.0)
    assert np.all(np.diff(found) >= 0)
    one_engine = at_once(np.zeros(32, dtype=int), found[np.arange(4, 256, 8)])  # an even sample of all
    ends = np.sort(replay(one_engine, COSTS, ACCEPTANCE, Fixed(0)).finished)
    shares = (np.arange(32) + 0.5) / 32
    assert ends[:31] == pytest.approx(completion_seconds(knots, shares)[:31], rel=0.03)
