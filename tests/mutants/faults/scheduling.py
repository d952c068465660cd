"""The scheduler's part: who may draft, and what is counted."""

from dataclasses import replace
from typing import Any

from tests.mutants.fault import Faults

faults = Faults()
SCHEDULER = "nemo_rl_efficientrollout.engine.scheduler:DraftLengths."
LEDGER = "nemo_rl_efficientrollout.engine.ledger:Ledger."
BEHIND = "tests/engine/test_metrics.py::test_a_drafter_that_fell_behind_is_reported"
COUNTED = "tests/engine/test_plugin.py::test_counters_agree_with_vllms_own"


@faults.at(
    "nemo_rl_efficientrollout.engine.workers:Workers.drafters",
    "tests/unit/test_workers.py::test_one_rank_that_may_not_draft_keeps_all_from_it",
    "only the first rank is asked whether it may draft",
)
def only_the_first_rank_is_asked(original: Any) -> Any:
    def broken(workers: Any) -> Any:
        first = type(workers)(_Executor(workers._executor))
        return original(first)

    return broken


class _Executor:
    def __init__(self, all_ranks: Any) -> None:
        self._all_ranks = all_ranks

    def collective_rpc(self, *arguments: Any, **named: Any) -> Any:
        return self._all_ranks.collective_rpc(*arguments, **named)[:1]


@faults.at(
    SCHEDULER + "may_draft",
    "tests/engine/test_refit.py::test_stale_drafter_never_drafts_and_requantizing_heals_it",
    "γ is above 0 although a worker's drafter is behind",
)
def drafts_although_behind(original: Any) -> Any:
    return lambda scheduler: True


@faults.at(SCHEDULER + "workers_changed", BEHIND, "the scheduler goes on with what the workers said first")
def workers_are_asked_once(original: Any) -> Any:
    return lambda scheduler: None


@faults.at(SCHEDULER + "_totals", BEHIND, "an engine whose drafter is behind is reported as well")
def behind_is_not_reported(original: Any) -> Any:
    return lambda scheduler: original(scheduler)._replace(behind=0)


@faults.at(LEDGER + "record", COUNTED, "accepted tokens are counted as drafted")
def accepted_counted_as_drafted(original: Any) -> Any:
    return lambda ledger, step, *rest: original(ledger, replace(step, drafted=step.accepted), *rest)


@faults.at(SCHEDULER + "_read_step", COUNTED, "the bonus token is counted as an accepted draft")
def bonus_counted_as_accepted(original: Any) -> Any:
    def broken(*arguments: Any) -> Any:
        step = original(*arguments)
        pairs = zip(step.accepted, step.drafted, strict=True)
        return replace(step, accepted=[min(kept + 1, drafted) for kept, drafted in pairs])

    return broken


@faults.at(
    "nemo_rl_efficientrollout.nemo_rl.metrics:_by_position",
    "tests/unit/test_nemo_rl_metrics.py::test_engines_are_averaged_and_counters_are_differences",
    "acceptance by position is that since the engine started, not that of the step",
)
def metrics_since_the_start(original: Any) -> Any:
    return lambda start, end: original({}, end)


@faults.at(
    "nemo_rl_efficientrollout.engine.self_test:LEAST_ACCEPTED",
    "tests/engine/test_self_test.py::test_wrong_positions_mean_plain_decoding_and_one_clear_line",
    "the start-up test is content with any acceptance",
)
def start_up_test_accepts_all(original: Any) -> Any:
    return 0.0
