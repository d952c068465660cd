"""A drafter is kept while its drafts are accepted as they were when it was made."""

from nemo_rl_efficientrollout.gate.evidence import LEAST_DRAFTED, Evidence


def rollout(evidence: Evidence, rate: float, drafted: int = 20_000) -> None:
    evidence.observe([drafted // 2] * 2, [int(rate * drafted) // 2] * 2)


def test_kept_while_acceptance_holds_and_remade_when_it_falls() -> None:
    evidence = Evidence()
    rollout(evidence, 0.90)
    assert not evidence.drafter_is_worse()  # its first rollout is the measure
    rollout(evidence, 0.897)
    assert not evidence.drafter_is_worse()
    rollout(evidence, 0.95)
    assert not evidence.drafter_is_worse()
    rollout(evidence, 0.88)
    assert evidence.drafter_is_worse()


def test_a_slow_decline_is_measured_against_the_first_rollout_not_the_last() -> None:
    evidence = Evidence()
    answers = []
    for step in range(10):
        rollout(evidence, 0.90 - 0.002 * step)
        answers.append(evidence.drafter_is_worse())
    assert not any(answers[:3])
    assert answers.index(True) <= 4


def test_after_a_remake_the_measure_is_new() -> None:
    evidence = Evidence()
    rollout(evidence, 0.95)
    evidence.drafter_is_worse()
    rollout(evidence, 0.80)
    assert evidence.drafter_is_worse()
    rollout(evidence, 0.80)
    assert not evidence.drafter_is_worse()


def test_too_few_drafts_prove_nothing() -> None:
    evidence = Evidence()
    assert evidence.drafter_is_worse()
    rollout(evidence, 0.95)
    assert not evidence.drafter_is_worse()
    rollout(evidence, 0.95, drafted=LEAST_DRAFTED - 2)
    assert evidence.drafter_is_worse()
