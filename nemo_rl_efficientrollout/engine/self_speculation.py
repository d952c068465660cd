"""The worker's part that outlives a step: the policy, its twin, and which version each has."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.logger import init_logger

from ..config import KEY, read_settings
from ..drafter.packing import without_drafter
from ..errors import UnsupportedError
from .compat import cpu_weights
from .refit import Refit
from .requantizer import Requantizer
from .session import QUANTIZER_ERRORS, RefitSession
from .signatures import check_signatures
from .twin import Twin, build_twin

logger = init_logger("vllm.efficientrollout")


class SelfSpeculation:
    """Owns the drafter of one model runner. Without a twin (it could not be built) the runner decodes plainly."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        self._config = vllm_config
        self._settings = read_settings(vllm_config.additional_config[KEY])  # type: ignore[index]
        self.refit = Refit()
        self.twin: Twin | None = None
        self._target: Any = None
        self._requantizer: Requantizer | None = None
        self._session: RefitSession | None = None
        self._awaits_verdict = False  # whether the drafter may be kept, asked where `refit.refresh` is `on_evidence`
        self._asleep: set[str] = set()
        self._rebuild_due = False  # once all is awake, unless a refit comes first
        self._rehearses = False

    @property
    def max_requests(self) -> int:
        """Largest batch that is drafted for."""
        return self._settings.draft_length.max_requests

    @property
    def ready(self) -> bool:
        """Whether drafting is allowed: a twin exists and was made from the policy's present weights."""
        return self.twin is not None and self.refit.may_draft

    def adopt(self, target: nn.Module) -> None:
        """Build and fill the twin of a loaded policy, and watch the policy's weights from now on."""
        self._target = target
        self._load_target = self._target.load_weights
        self._target.load_weights = self._load_and_take_note
        try:
            check_signatures(self._config.use_v2_model_runner)
            self._refuse_shares_of_parcels()
            self.twin = build_twin(self._config, target, self._settings.drafter)
            self._requantizer = Requantizer(self.twin.quantized, self._config, next(target.parameters()).device)
            self._conclude(self._requantizer.finish())
        except QUANTIZER_ERRORS as error:
            self.decode_plainly(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def rehouse(self) -> None:
        """Move what the drafter owns to memory that is allocated now."""
        for layer in self.twin.quantized if self.twin else ():
            layer.method.rehouse()

    def decode_plainly(self, reason: str) -> None:
        """Give the drafter up for good. Raises UnsupportedError instead when the settings are strict."""
        self.twin = self._requantizer = self._session = None  # and with them the drafter's memory
        self.refit.fail(f"decoding plainly, {reason}")
        if self._settings.strict:
            raise UnsupportedError(f"EfficientRollout cannot run and strict is set: {reason}")
        logger.warning("EfficientRollout is off, decoding plainly: %s", reason)

    def _refuse_shares_of_parcels(self) -> None:
        ranks = self._config.parallel_config.tensor_parallel_size
        if self._settings.refit.quantize_on == "trainer" and ranks > 1:
            raise UnsupportedError(
                "refit.quantize_on is 'trainer', which sends whole weights, but tensor_parallel_size is"
                f" {ranks}: set refit.quantize_on to 'engine'"
            )

    # A refit

    def begin_refit(self, whole: bool, continues: bool = False, deltas: bool = False) -> None:
        """Weights start to change.

        Args:
            whole: every tensor will arrive through `load_weights`.
            continues: this may be a further part of a refit that began already.
            deltas: `load_weights` is handed changes.
        """
        if self.twin is None or self._requantizer is None or (continues and self._session is not None):
            return
        self.refit.begin()
        self._rebuild_due = self._awaits_verdict = False
        self._session = RefitSession(self._target, self.twin, self._requantizer, self._settings, whole, deltas)

    def fail_refit(self, reason: str) -> None:
        """Weights stopped arriving half-way: no drafting until a later refit is complete."""
        self._session = None
        cpu_weights.pack_again(self._target)
        self._lose(reason)

    def finish_refit(self) -> None:
        """The policy is whole again: compare what arrived with what should have, and quantize what is left."""
        session, self._session = self._session, None
        cpu_weights.pack_again(self._target)
        if session is None:
            return
        problems = session.problems()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            self._lose(problems[0] + more)
        elif self._settings.refit.refresh == "on_evidence" and self.refit.drafter_version >= 0:
            self._awaits_verdict = True
            self.refit.fail("waiting for a word whether the drafter is still good enough")
        else:
            self._complete()

    def refresh(self, needed: bool) -> None:
        """The verdict on a drafter after a refit that went well: whether acceptance has fallen since it was made."""
        if not self._awaits_verdict:
            return
        self._awaits_verdict = False
        if needed:
            self.requantize()
        else:
            self.refit.keep()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within it the policy's loaders run, but change no weight."""
        self._rehearses = True
        try:
            yield
        finally:
            self._rehearses = False

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Refit: new weights into the policy, then into the drafter. Until both are done, γ is 0."""
        self.begin_refit(whole=True)
        try:
            self._target.load_weights(named)
        except BaseException as error:
            self.fail_refit(f"loading raised {type(error).__name__}: {error}")
            raise
        self.finish_refit()

    def requantize(self) -> None:
        """Rebuild the drafter from the policy's present weights."""
        self._session, self._rebuild_due = None, False
        if self._requantizer is not None:
            self._requantizer.start()
        self._complete()

    def _complete(self) -> None:
        if self.twin is None or self._requantizer is None:
            return
        try:
            bad = self._requantizer.finish()
        except BaseException as error:
            self._lose(f"re-quantization raised {type(error).__name__}: {error}")
            if self._settings.strict or not isinstance(error, QUANTIZER_ERRORS):
                raise  # otherwise the policy goes on without its drafter
        else:
            self._conclude(bad)

    def _conclude(self, bad: list[str]) -> None:
        assert self._requantizer is not None
        if bad:
            self._lose(f"layer '{bad[0]}' holds NaN or infinity")
        else:
            self.refit.succeed(self._requantizer.seconds)

    def _lose(self, reason: str) -> None:
        if self.twin is not None:
            self.refit.fail(reason)
            logger.error("EfficientRollout drafts no more: %s. A complete refit heals it", self.refit.problem)

    def _load_and_take_note(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """Stands in place of the policy's `load_weights`: a bucket of a refit, or weights from elsewhere."""
        if self._rehearses:
            return self._load_target(weights, *args, **kwargs)
        if self._session is not None:
            return self._session.load(self._load_target, weights, *args, **kwargs)
        if self.twin is not None:
            self.refit.begin()
            self.refit.fail("weights were loaded by a way that is not known to be complete: call requantize")
        if self._settings.refit.quantize_on == "trainer":  # which does not know that nobody takes its drafter
            weights = without_drafter(weights)
        return self._load_target(weights, *args, **kwargs)

    # Sleep

    def sleep(self, level: int) -> None:
        """The engine gives its memory back; from level 2 on the policy's weights are lost."""
        self._asleep = {"weights", "kv_cache"}
        self._rebuild_due = level == 1 and self.refit.may_draft
        if level > 1:
            self._session = None
            self.refit.begin()
            self.refit.fail("its weights were discarded by sleep level 2, and were not sent since")
        elif self._session is not None and self._requantizer is not None:
            self._requantizer.start()  # layers that this refit had made already are lost
        elif self._rebuild_due:
            self.refit.sleep()

    def wake_up(self, tags: Iterable[str] | None) -> None:
        """Memory is back: all of it, or what `tags` name. NeMo-RL wakes the weights, refits, and wakes the KV cache:
        a drafter that is remade by the refit need not be remade before."""
        self._asleep = set() if tags is None else self._asleep - set(tags)
        if self._rebuild_due and not self._asleep:
            self.requantize()
