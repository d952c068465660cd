"""What the scheduler is told of its workers is the worst of all ranks."""

from types import SimpleNamespace

from nemo_rl_efficientrollout.engine.workers import Drafters, Workers


def rank(problem: str = "", policy: int = 3, drafter: int = 3, seconds: float = 0.1) -> dict:
    return {
        "drafter_problem": problem,
        "policy_version": policy,
        "drafter_version": drafter,
        "requantize_seconds": seconds,
    }


def drafters(*ranks: dict) -> Drafters:
    return Workers(SimpleNamespace(collective_rpc=lambda method: list(ranks))).drafters()


def test_ranks_that_agree_may_draft() -> None:
    assert drafters(rank(), rank()) == Drafters(True, 3, 3, 0.1)


def test_one_rank_that_may_not_draft_keeps_all_from_it() -> None:
    assert drafters(rank(), rank("behind", drafter=2, seconds=0.4)) == Drafters(False, 3, 2, 0.4)
