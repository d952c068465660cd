"""The simulator's parts, each against the obvious way to compute the same."""

import time
from collections import deque

import numpy as np
import pytest

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate import AutoGate
from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.model_constants import ModelConstants
from nemo_rl_efficientrollout.gate.terms import Kind, Padding, Terms, Vector
from nemo_rl_efficientrollout.gate.timing import Prefill
from nemo_rl_efficientrollout.simulate import (
    AcceptanceCurve,
    BatchTable,
    Best,
    Costs,
    Engine,
    Fixed,
    Ladder,
    Limits,
    MeasuredPrefill,
    ModelCosts,
    OneWayToggle,
    Phases,
    Policy,
    PolicyGate,
    Rollout,
    Roofline,
    Workload,
    at_once,
    cluster,
    replay,
    train,
)
from nemo_rl_efficientrollout.simulate.completions import completion_seconds
from nemo_rl_efficientrollout.simulate.roofline import static
from tests import sweeps

COSTS = Roofline(static(ModelConstants.model_validate(sweeps.QWEN_7B)), 1.6e12, 26000, 1.3, 39.0, 69.0, 152.0)
ACCEPTANCE = AcceptanceCurve.by_context((0, 300, 900), (0.95, 0.9, 0.8), 11)
TIGHT = Limits(requests=6, kv_tokens=1600, block=16)


def workload(seed: int, requests: int = 12, arrivals: float = 0.0) -> Workload:
    """Prompts and responses of up to 400 tokens, pairs sharing a prompt, arriving within `arrivals` seconds."""
    chance = np.random.default_rng(seed)
    prompt = np.repeat(chance.integers(0, 400, requests), 2)[:requests]
    response = np.minimum(np.ceil(chance.exponential(100.0, requests)), 400).astype(int)
    return Workload(prompt, response, np.sort(chance.uniform(0.0, arrivals, requests)), np.arange(requests) // 2)


def token_by_token(work: Workload, policy: Policy, limits: Limits) -> tuple[float, list[float], int]:
    """The expected rollout in plain Python, one token of every request at a time: seconds, ends, preemptions."""
    now, preemptions, arrived = 0.0, 0, 0
    waiting: deque[int] = deque()
    running: list[int] = []
    cached: set[int] = set()
    made, ends = [0] * len(work), [0.0] * len(work)

    def blocks(i: int) -> int:
        return -(-(int(work.prompt[i]) + made[i] + 1 + limits.lookahead) // limits.block)

    while arrived < len(work) or waiting or running:
        while arrived < len(work) and work.arrival[arrived] <= now:
            waiting.append(arrived)
            arrived += 1
        prompts = []
        while waiting and len(running) < limits.requests:
            if sum(blocks(i) for i in [*running, waiting[0]]) > limits.blocks:
                break
            i = waiting.popleft()
            running.append(i)
            group = int(work.group[i])
            prompts.append(1 if group in cached and not made[i] else max(1, int(work.prompt[i]) + made[i]))
            cached.add(group)
        if prompts:
            now += COSTS.prefill(np.array(prompts, dtype=float))
        elif not running:
            now = float(work.arrival[arrived])
            continue
        while sum(map(blocks, running)) > limits.blocks:
            waiting.appendleft(running.pop())
            preemptions += 1
        batch = np.array([float(len(running))])
        context = np.array([float(np.mean([work.prompt[i] + made[i] for i in running]))])
        length = policy.plan(batch, context)
        policy.ran(batch, context, length)
        now += COSTS.cycle(len(running), float(context[0]), int(length[0])) / float(
            ACCEPTANCE.length(context, length)[0]
        )
        for i in running:
            made[i] += 1
            if made[i] == work.response[i]:
                ends[i] = now
        running = [i for i in running if made[i] < work.response[i]]
    return now, ends, preemptions


POLICIES = {
    "plain": lambda: Fixed(0),
    "always 7": lambda: Fixed(7),
    "table": lambda: BatchTable({1: 9, 4: 5, 9: 0}),
    "toggle": lambda: OneWayToggle(COSTS, 5, 4.9, ramp=4),
    "oracle": lambda: Best(COSTS, ACCEPTANCE, range(12)),
}


@pytest.mark.parametrize("limits", [Limits(), TIGHT, Limits(kv_tokens=850, lookahead=7)])
@pytest.mark.parametrize("arrivals", [0.0, 4.0])
@pytest.mark.parametrize("name", POLICIES)
def test_the_replay_is_the_obvious_one(name: str, arrivals: float, limits: Limits) -> None:
    for seed in range(2):
        work = workload(seed, arrivals=arrivals)
        seconds, ends, preemptions = token_by_token(work, POLICIES[name](), limits)
        found = replay(work, COSTS, ACCEPTANCE, POLICIES[name](), limits)
        assert found.seconds == pytest.approx(seconds, rel=1e-9)
        assert found.finished == pytest.approx(np.array(ends), rel=1e-9)
        assert found.preemptions == preemptions
    assert preemptions > 0 or limits.kv_tokens > 850  # these limits are felt


@pytest.mark.parametrize("limits", [Limits(), TIGHT])
def test_plain_decoding_is_the_same_sampled_and_expected(limits: Limits) -> None:
    work = workload(5, arrivals=3.0)
    expected = replay(work, COSTS, ACCEPTANCE, Fixed(0), limits)
    sampled = Engine(COSTS, ACCEPTANCE, PolicyGate(Fixed(0)), limits).rollout(work)
    assert sampled.finished == pytest.approx(expected.finished, rel=1e-9)
    assert sampled.tau is None
    assert expected.tau is None


@pytest.mark.parametrize("length", [1, 5, 9])
def test_speculation_sampled_takes_what_is_expected(length: int) -> None:
    work = at_once(np.array([100]), np.array([3000]))  # alone: of several, equally long, one is late by chance
    expected = replay(work, COSTS, ACCEPTANCE, Fixed(length))
    sampled = [Engine(COSTS, ACCEPTANCE, PolicyGate(Fixed(length)), seed=seed).rollout(work) for seed in range(3)]
    assert np.mean([rollout.seconds for rollout in sampled]) == pytest.approx(expected.seconds, rel=0.04)
    assert np.mean([rollout.tau or 0.0 for rollout in sampled]) == pytest.approx(expected.tau, rel=0.04)


def test_certain_acceptance_leaves_nothing_to_chance() -> None:
    certain = AcceptanceCurve.constant(1.0, 3)
    work = at_once(np.array([10]), np.array([1 + 4 * 50]))  # the first step has no drafts yet
    sampled = Engine(COSTS, certain, PolicyGate(Fixed(3))).rollout(work)
    assert sampled.timeline.cycles.sum() == 51
    assert sampled.tau == 4.0
    assert sampled.drafts == sampled.accepted == 150


def test_time_is_entered_where_it_went() -> None:
    rollout = replay(at_once(np.array([100]), np.array([50])), COSTS, ACCEPTANCE, Fixed(5))
    batch, context, length = np.ones(50), np.arange(100, 150).astype(np.float64), np.full(50, 5)
    tau = ACCEPTANCE.length(context, length)
    assert rollout.plain_s == rollout.idle_s == 0.0
    assert rollout.draft_s == pytest.approx(np.sum(5 * COSTS.draft(batch, context, length) / tau))
    assert rollout.verify_s == pytest.approx(np.sum(COSTS.verify(batch, context, length) / tau))
    assert rollout.speculating == pytest.approx(1.0 - rollout.prefill_s / rollout.seconds)


def test_who_has_just_come_has_no_drafts_to_accept() -> None:
    work = Workload(np.array([10, 10]), np.array([101, 41]), np.array([0.0, 0.2]), np.arange(2))
    rollout = Engine(COSTS, AcceptanceCurve.constant(1.0, 3), PolicyGate(Fixed(3))).rollout(work)
    assert rollout.drafts == rollout.accepted == 75 + 30


def test_the_same_seed_is_the_same_rollout() -> None:
    def rollout(seed: int) -> Rollout:
        gate = AutoGate(7)
        return Engine(COSTS, ACCEPTANCE, gate, TIGHT, noise=0.05, seed=seed).rollout(workload(2, arrivals=1.0))

    first, again, other = rollout(1), rollout(1), rollout(2)
    assert np.array_equal(first.finished, again.finished)
    assert np.array_equal(first.timeline.draft_length, again.timeline.draft_length)
    assert not np.array_equal(first.finished, other.finished)


def test_the_gate_learns_to_speculate_in_the_tail_and_not_in_the_bulk() -> None:
    certain = AcceptanceCurve.constant(0.95, 11)
    work = at_once(np.full(64, 100), np.array([*range(30, 93), 3000]))
    engine = Engine(COSTS, certain, AutoGate(11), noise=0.02)
    engine.rollout(work)
    second = engine.rollout(work)
    plain = replay(work, COSTS, certain, Fixed(0)).seconds
    oracle = replay(work, COSTS, certain, Best(COSTS, certain, range(12))).seconds
    timeline = second.timeline
    crowded = timeline.batch > 60
    assert timeline.seconds[crowded & (timeline.draft_length > 0)].sum() < 0.1 * timeline.seconds[crowded].sum()
    assert oracle < second.seconds < oracle + 0.15 * (plain - oracle)


@pytest.mark.parametrize("name", POLICIES)
def test_a_thousand_requests_of_eight_thousand_tokens_take_less_than_a_second(name: str) -> None:
    chance = np.random.default_rng(0)
    response = np.minimum(np.ceil(chance.lognormal(6.2, 0.8, 1024)), 8192).astype(int)
    response[100] = 8192
    work = at_once(np.full(1024, 350), response, samples=8)
    started = time.process_time()
    rollout = replay(work, COSTS, ACCEPTANCE, POLICIES[name](), Limits(requests=128, kv_tokens=150_000))
    assert time.process_time() - started < 1.0
    assert rollout.tokens == pytest.approx(work.tokens)


@pytest.mark.parametrize("padding", [Padding(), Padding(draft_to_cycle=True), Padding(captured_rows=(1, 8, 32, 100))])
def test_costs_of_a_model_are_its_own(padding: Padding) -> None:
    truth = sweeps.truth()
    model = CostModel(Terms(padding=padding), truth.mean, truth.covariance, truth.noise)
    costs = ModelCosts(model)
    batch = np.array([1.0, 7.0, 30.0, 130.0, 700.0])
    context, length = np.array([0.0, 300.0, 1000.0, 8000.0, 50.0]), np.array([1.0, 3.0, 7.0, 11.0, 15.0])
    found_by_kind: dict[Kind, Vector] = {
        "plain": costs.plain(batch, context),
        "draft": costs.draft(batch, context, length),
        "verify": costs.verify(batch, context, length),
    }
    for kind, found in found_by_kind.items():
        loads = zip(batch, context, length, strict=True)
        expected = [model.seconds(kind, int(b), s, 0 if kind == "plain" else int(g)) for b, s, g in loads]
        assert found == pytest.approx(np.array(expected), rel=1e-12)


def test_prefills_are_as_measured_and_decoding_as_before() -> None:
    def seconds(lengths: Vector) -> float:
        return 0.003 + 0.0004 * len(lengths) + 2e-6 * float(lengths.sum()) + 1e-9 * float(np.sum(lengths**2))

    sizes = [(requests, prompt) for requests in (1, 4, 16) for prompt in (32, 128, 512)]
    measured = [Prefill(n, prompt, seconds(np.full(n, float(prompt)))) for n, prompt in sizes]
    costs = MeasuredPrefill(COSTS, measured)
    mixed = np.array([10.0, 300.0, 70.0])
    assert costs.prefill(mixed) == pytest.approx(seconds(mixed), rel=1e-6)
    load = np.array([4.0]), np.array([500.0]), np.array([3.0])
    assert costs.plain(*load[:2]) == COSTS.plain(*load[:2])
    assert costs.draft(*load) == COSTS.draft(*load)
    assert costs.verify(*load) == COSTS.verify(*load)


def test_the_toggle_waits_for_the_ramp_and_never_goes_back() -> None:
    batch = np.array([1.0, 33.0, 60.0, 20.0, 60.0, 1.0])
    context = np.full(6, 500.0)
    toggle = OneWayToggle(COSTS, 5, 4.9)
    assert toggle.plan(batch, context).tolist() == [0, 0, 0, 5, 5, 5]
    toggle.ran(batch[:2], context[:2], toggle.plan(batch[:2], context[:2]))
    assert toggle.plan(batch[:1], context[:1]).tolist() == [5]  # ramped
    assert toggle.plan(batch[2:3], context[2:3]).tolist() == [0]  # planning decided nothing
    toggle.ran(batch[3:4], context[3:4], toggle.plan(batch[3:4], context[3:4]))
    assert toggle.plan(batch[2:3], context[2:3]).tolist() == [5]  # too many by far, but it is on
    never = OneWayToggle(COSTS, 5, 4.9)
    assert never.plan(np.full(3, 32.0), np.full(3, 9.0)).tolist() == [0, 0, 0]


def test_the_ladder_moves_when_two_rollouts_agree() -> None:
    ladder = Ladder()
    assert (ladder.draft_length, ladder.tau) == (5, 5.0)
    ladder.observe(5.73)
    ladder.observe(5.5)  # 0.90 of the drafts
    assert (ladder.draft_length, ladder.tau) == (5, 5.5)
    ladder.observe(5.73)
    ladder.observe(5.73)
    assert (ladder.draft_length, ladder.tau) == (7, 7.0)
    for _ in range(2):
        ladder.observe(1.0 + 7 * 0.85)
    assert ladder.draft_length == 5


def test_the_best_table_is_best_at_every_listed_size() -> None:
    sizes, lengths_ = (1, 8, 32, 64), (0, 3, 7)
    table = BatchTable.best(COSTS, ACCEPTANCE, lengths_, sizes, 500.0)
    chosen = table.plan(np.array([1.0, 8.0, 32.0, 64.0, 40.0]), np.full(5, 500.0))
    for size, length in zip(sizes, chosen, strict=False):
        alpha = ACCEPTANCE.at(np.array([500.0]))[0, 0]
        prices = {g: COSTS.cycle(size, 500.0, g) / sum(alpha**i for i in range(g + 1)) for g in lengths_}
        assert length == min(prices, key=prices.__getitem__)
    assert chosen[4] == chosen[2]


def never(part: Workload, costs: Costs) -> Rollout:
    raise AssertionError("replayed")


@pytest.mark.parametrize(
    ("cause", "names"),
    [
        (lambda: at_once(np.array([3, 4]), np.array([5, 0])), "request 1 has a response of 0"),
        (lambda: at_once(np.array([]), np.array([])), "no requests"),
        (lambda: Workload(np.ones(2, int), np.ones(2, int), np.array([1.0, 0.0]), np.zeros(2, int)), "arrivals"),
        (lambda: replay(workload(0), COSTS, ACCEPTANCE, Fixed(0), Limits(kv_tokens=64)), "KV cache"),
        (lambda: AcceptanceCurve.constant(1.2, 3), "probability"),
        (lambda: Best(COSTS, ACCEPTANCE, (0, 12)), "draft length 12"),
        (lambda: replay(workload(0), COSTS, ACCEPTANCE, Fixed(13)), "draft length 13"),
        (lambda: Engine(COSTS, ACCEPTANCE, PolicyGate(Fixed(13))).rollout(workload(0)), "draft length 13"),
        (lambda: MeasuredPrefill(COSTS, []), "no prefill"),
        (lambda: Fixed(-1), "-1"),
        (lambda: Limits(requests=0), "requests 0"),
        (lambda: cluster.run(workload(0), 2, COSTS, never, slowness=(1.0,)), "slowness"),
        (lambda: cluster.run(workload(0), 2, COSTS, never, slowness=(1.0, 0.0)), "slowness"),
        (lambda: BatchTable({}), "batch table"),
        (lambda: Ladder((7, 5)), "ladder"),
        (lambda: train([], Phases(1.0, 1.0, 1.0)), "at least one rollout"),
        (lambda: list(cluster.split(workload(0), 0)), "engines"),
        (lambda: completion_seconds(((0.5, 3.0), (0.9, 2.0)), np.array([0.5])), "ascending"),
    ],
)
def test_bad_input_is_one_line_that_names_it(cause, names: str) -> None:
    with pytest.raises(UserError) as error:
        cause()
    assert names in str(error.value)
    assert "\n" not in str(error.value)
