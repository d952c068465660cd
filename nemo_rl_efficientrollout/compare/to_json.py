"""The comparison as JSON, with units. `format` counts changes of this layout."""

from dataclasses import asdict
from typing import Any

from .bootstrap import CONFIDENCE, RESAMPLES
from .comparison import Compared, Comparison
from .metrics import By
from .run import Run
from .words import caveats, conclusions, verdict

FORMAT = 1


def to_json(found: Comparison) -> dict[str, Any]:
    """A JSON object; `estimate` is B / A (unit 1) or B - A (unit of the metric), null where it cannot be had."""
    return {
        "format": FORMAT,
        "a": _run(found.a),
        "b": _run(found.b),
        "skipped_first_steps": found.skipped,
        "common_steps": {"count": len(found.steps), "first": found.steps[0], "last": found.steps[-1]},
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "metrics": {name: _metric(compared) for name, compared in found.metrics.items()},
        "missing": found.missing,
        "settings": asdict(found.settings),
        "conclusions": list(conclusions(found)),
        "caveats": list(caveats(found)),
    }


def _run(run: Run) -> dict[str, str]:
    return {"name": run.name, "source": run.source, "kind": run.kind}


def _metric(compared: Compared) -> dict[str, Any]:
    metric, interval = compared.metric, compared.interval
    return {
        "title": metric.title,
        "unit": metric.unit,
        "compared_by": metric.by.value,
        "a": asdict(compared.a) if compared.a else None,
        "b": asdict(compared.b) if compared.b else None,
        "estimate": compared.estimate,
        "estimate_unit": "1" if metric.by is By.RATIO else metric.unit,
        "interval": [interval.low, interval.high] if interval else None,
        "block_steps": interval.block if interval else None,
        "pairs": compared.pairs,
        "differs": compared.differs,
        "verdict": verdict(compared),
    }
