"""Our totals among vLLM's own metrics, so that whoever reads vLLM's reads ours: Prometheus, NeMo-RL's workers.

The scheduler may live in another process than the metrics. What vLLM carries between the two is fixed; of its
`SpecDecodingStats`, the list of drafted tokens by position is one of integers of any length that nothing reads. Our
totals are its tail.
"""

from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.spec_decode.metrics import SpecDecodingLogging, SpecDecodingProm, SpecDecodingStats

from ..patching import wrap

PREFIX = "vllm:spec_decode_efficientrollout_"
"""NeMo-RL collects what has `spec_decode` in its name."""
EVERY = 16
"""Steps between two reports; the last step of a rollout reports too. Totals lose nothing by being sent seldom."""


class Totals(NamedTuple):
    """Since the engine started, if not said otherwise. Integers, for those are what is carried."""

    engines: int = 1
    behind: int = 0
    """1 while a drafter must not draft."""
    policy_version: int = 0
    drafter_version: int = 0
    requantize_microseconds: int = 0
    """Of the last refit."""
    decode_steps: int = 0
    speculating_steps: int = 0
    gate_switches: int = 0
    gated_microseconds: int = 0
    """Of steps for which the gate made a prediction."""
    promised_microseconds: int = 0
    """The same times predicted speed-up: how long plain decoding would have taken, by prediction."""
    ideal_microseconds: int = 0
    """The same over the speed-up of the action that promised most."""
    break_even_millionths: int = 0
    """Acceptance rate from which drafting one token pays for one request alone, by prediction now; 0 is unknown."""


def attach(stats: SpecDecodingStats, totals: Totals) -> None:
    """Let `stats` carry `totals`."""
    stats.num_draft_tokens_per_pos = [*stats.num_draft_tokens_per_pos, *totals]


def detach(stats: SpecDecodingStats) -> Totals | None:
    """What `stats` carries, if anything."""
    tail = stats.num_draft_tokens_per_pos[stats.num_spec_tokens :]
    return Totals(*tail) if tail else None


def install() -> None:
    """Publish what arrives."""
    wrap(SpecDecodingProm, "__init__", _remember_labels)
    wrap(PrometheusStatLogger, "__init__", _add_ours)
    wrap(SpecDecodingProm, "observe", _publish)
    wrap(SpecDecodingLogging, "observe", _skip_empty)


class _Published:
    """Metrics of all engines of one front end."""

    def __init__(self, positions: int, labels: list[str], values: dict[int, list[Any]]) -> None:
        self._values = values
        self._totals = [Gauge(f"{PREFIX}{name}", f"EfficientRollout: {name}.", labels) for name in Totals._fields]
        self._drafted = [
            Counter(f"{PREFIX}drafted_at_{position}", "Tokens drafted at this position.", labels)
            for position in range(1, positions + 1)
        ]

    def set(self, totals: Totals, engine: int) -> None:
        for gauge, value in zip(self._totals, totals, strict=True):
            gauge.labels(*self._values[engine]).set(value)

    def count(self, drafted: list[int], engine: int) -> None:
        """Tokens that one step verified, by position; longer than there are positions."""
        for counter, tokens in zip(self._drafted, drafted, strict=False):
            counter.labels(*self._values[engine]).inc(tokens)


def _remember_labels(original: Any) -> Any:
    def init(prom: Any, speculative_config: Any, labelnames: Any, per_engine_labelvalues: Any, **more: Any) -> None:
        original(prom, speculative_config, labelnames, per_engine_labelvalues, **more)
        prom.efficientrollout = None
        prom.efficientrollout_labels = list(labelnames), per_engine_labelvalues

    return init


def _add_ours(original: Any) -> Any:
    """With vLLM's own metrics, which take the place of those of an earlier engine in this process."""

    def init(logger: Any, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        from .plugin import is_enabled

        original(logger, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config) and vllm_config.speculative_config is not None:
            prom = logger.spec_decoding_prom
            positions = vllm_config.speculative_config.num_speculative_tokens
            prom.efficientrollout = _Published(positions, *prom.efficientrollout_labels)

    return init


def _publish(original: Any) -> Any:
    def observe(prom: Any, stats: SpecDecodingStats, engine_idx: int = 0) -> None:
        original(prom, stats, engine_idx)
        ours = prom.efficientrollout
        if ours is None:
            return
        totals = detach(stats)
        if totals is not None:
            ours.set(totals, engine_idx)
        if stats.num_drafts:
            ours.count(stats.num_draft_tokens_per_pos, engine_idx)

    return observe


def _skip_empty(original: Any) -> Any:
    def observe(logging: Any, stats: SpecDecodingStats) -> None:
        if stats.num_drafts:  # a report of plain steps has none, and vLLM divides by them
            original(logging, stats)

    return observe
