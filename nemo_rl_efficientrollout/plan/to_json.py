"""A plan as JSON types; units in the keys, ranges as their quantiles."""

from collections.abc import Sequence
from typing import Any

from .forecast import Forecast, Spread, Way
from .sweep import Answer
from .words import HONESTY, assumptions, facts


def to_json(found: Forecast) -> dict[str, Any]:
    """The whole plan."""
    return {
        "note": HONESTY,
        "model": found.scenario.model.name,
        "gpu": found.scenario.gpu.name,
        "engines": found.scenario.engines,
        "tensor_parallel": found.scenario.tensor_parallel,
        "inputs": facts(found),
        "assumptions": [
            {"name": name, "low": low, "high": high, "reason": reason} for name, low, high, reason in assumptions(found)
        ],
        "draws": found.draws,
        "best": found.best.name,
        "plain": _way(found.plain),
        "formats": [_way(way) for way in found.ways],
    }


def sweep_to_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Every point of a sweep, in order."""
    return [
        {
            "axis": answer.point.axis,
            "value": answer.point.value,
            "best": answer.forecast.best.name,
            "plain": _way(answer.forecast.plain),
            "formats": [_way(way) for way in answer.forecast.ways],
        }
        for answer in answers
    ]


def _way(way: Way) -> dict[str, Any]:
    m = way.memory
    return {
        "name": way.name,
        "refusal": way.refusal,
        "rollout_s": _spread(way.rollout_s),
        "step_s": _spread(way.step_s),
        "plain_over_rollout": _spread(way.rollout_ratio),
        "plain_over_step": _spread(way.step_ratio),
        "speculating_share": _spread(way.speculating),
        "draft_length_mean": _spread(way.draft_length),
        "acceptance_rate": _spread(way.acceptance),
        "fastest_share": way.best,
        "memory_bytes": {
            "room": m.room,
            "policy": m.policy,
            "drafter": m.drafter,
            "draft_distributions": m.distributions,
            "kv_cache": m.kv,
        },
        "kv_tokens": m.kv_tokens,
        "longest_request_tokens": m.longest,
        "fits": m.problem is None,
    }


def _spread(spread: Spread | None) -> dict[str, float] | None:
    return {"p5": spread.low, "p50": spread.middle, "p95": spread.high} if spread else None
