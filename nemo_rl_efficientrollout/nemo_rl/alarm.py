"""Says it loudly when speculation is dead or does not pay: NeMo-RL would train on, only slower."""

from collections.abc import Mapping

from .metrics import ROOM

PATIENCE = 3
"""Training steps in a row: one alone may have had few drafts, or a refit under way."""
ACCEPTANCE = "vllm/spec_acceptance_rate"
DRAFTED = "vllm/spec_num_draft_tokens"


class Alarm:
    """Watches the metrics of training steps; silent again once all is well."""

    def __init__(self) -> None:
        self._steps = {"behind": 0, "acceptance": 0}

    def observe(self, metrics: Mapping[str, float]) -> list[str]:
        """What has just become worth an alarm, a line each; the same is said once until it was well again."""
        raised = []
        for name, problem in (("behind", _behind(metrics)), ("acceptance", _below_break_even(metrics))):
            self._steps[name] = self._steps[name] + 1 if problem else 0
            if problem and self._steps[name] == PATIENCE:
                raised.append(f"{problem} for {PATIENCE} steps")
        return raised


def _behind(metrics: Mapping[str, float]) -> str:
    behind = metrics.get(f"{ROOM}engines_behind", 0.0)
    if not behind:
        return ""
    lag = metrics.get(f"{ROOM}drafter_version_lag", 0.0)
    return (
        f"{behind:.0f} engines have no drafter that is as new as their policy (mean lag {lag:.2g} refits) and decode"
        " plainly; their logs say why"
    )


def _below_break_even(metrics: Mapping[str, float]) -> str:
    """Acceptance of 0 never pays; what else does not is known to gates that measure."""
    rate = metrics.get(ACCEPTANCE)
    if rate is None or not metrics.get(DRAFTED):
        return ""
    needed = metrics.get(f"{ROOM}break_even", 0.0)
    if rate > needed:
        return ""
    return f"{rate:.1%} of drafted tokens were accepted, where more than {needed:.1%} would have to be to pay"
