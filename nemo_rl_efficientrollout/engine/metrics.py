"""Our totals among vLLM's own metrics, so that whoever reads vLLM's reads ours: Prometheus, NeMo-RL's workers.

The scheduler may live in another process than the metrics. What vLLM carries between the two is fixed; of its
`SpecDecodingStats`, the list of drafted tokens by position is one of integers of any length that nothing reads. Our
totals are its tail.
"""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.spec_decode.metrics import SpecDecodingLogging, SpecDecodingStats

from ..patching import wrap
from .totals import DRAFTED_AT, PREFIX, Totals

LABELS = ("model_name", "engine")
"""vLLM's own."""
EVERY = 16
"""Steps between two reports; the last step of a rollout reports too. Totals lose nothing by being sent seldom."""


def attach(stats: SpecDecodingStats, totals: Totals) -> None:
    """Let `stats` carry `totals`."""
    stats.num_draft_tokens_per_pos = [*stats.num_draft_tokens_per_pos, *totals]


def detach(stats: SpecDecodingStats) -> Totals | None:
    """What `stats` carries, if anything."""
    tail = stats.num_draft_tokens_per_pos[stats.num_spec_tokens :]
    return Totals(*tail) if tail else None


def counters(metrics: Iterable[Any]) -> dict[Any, float]:
    """Of vLLM's metrics (`LLM.get_metrics()`) those about speculation, ours too, as NeMo-RL's workers collect them:
    by name, and by (name, position from 1) where a metric has positions.
    """
    found: dict[Any, float] = {}
    for metric in metrics:
        if "spec_decode" in metric.name:
            if hasattr(metric, "values"):
                found |= {(metric.name, position): value for position, value in enumerate(metric.values, 1)}
            else:
                found[metric.name] = metric.value
    return found


def install() -> None:
    """Publish what arrives."""
    wrap(PrometheusStatLogger, "__init__", _add_ours)
    wrap(SpecDecodingLogging, "observe", _skip_empty)


class _Published:
    """Metrics of all engines of one front end."""

    def __init__(self, positions: int, labels: dict[int, list[Any]]) -> None:
        self._labels = labels
        self._totals = [Gauge(f"{PREFIX}{name}", f"EfficientRollout: {name}.", LABELS) for name in Totals._fields]
        self._drafted = [
            Counter(f"{DRAFTED_AT}{position}", "Tokens drafted at this position.", LABELS)
            for position in range(1, positions + 1)
        ]

    def observe(self, stats: SpecDecodingStats, engine: int) -> None:
        """Take what `stats` carries, and count the tokens that its step verified, by position."""
        totals = detach(stats)
        if totals is not None:
            for gauge, value in zip(self._totals, totals, strict=True):
                gauge.labels(*self._labels[engine]).set(value)
        if stats.num_drafts:  # the list is longer than there are positions
            for counter, tokens in zip(self._drafted, stats.num_draft_tokens_per_pos, strict=False):
                counter.labels(*self._labels[engine]).inc(tokens)


def _add_ours(original: Any) -> Any:
    """With vLLM's own metrics, which take the place of those of an earlier engine in this process."""

    def init(logger: Any, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        from .plugin import is_enabled

        original(logger, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config) and vllm_config.speculative_config is not None:
            positions = vllm_config.speculative_config.num_speculative_tokens
            ours = _Published(positions, logger.per_engine_labelvalues)
            theirs = logger.spec_decoding_prom.observe

            def observe(stats: SpecDecodingStats, engine_idx: int = 0) -> None:
                theirs(stats, engine_idx)
                ours.observe(stats, engine_idx)

            logger.spec_decoding_prom.observe = observe

    return init


def _skip_empty(original: Any) -> Any:
    def observe(logging: Any, stats: SpecDecodingStats) -> None:
        if stats.num_drafts:  # a report of plain steps has none, and vLLM divides by them
            original(logging, stats)

    return observe
