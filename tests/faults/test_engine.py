"""Faults while the drafter is built, in the drafter and in the gate, in an engine of this process."""

import gc
import resource
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM

from nemo_rl_efficientrollout.engine import self_speculation, twin
from nemo_rl_efficientrollout.engine.kernels.draft_linear import DraftLinear
from nemo_rl_efficientrollout.errors import UserError
from tests.engines import core_of, generate, prompts, runner_of, set_gate, start, stats
from tests.faults.drafting import FRESH, SETTINGS, drafts_of, give_up_requests
from tests.faults.observed import error_of, note
from tests.models import VOCABULARY, save_tiny_model
from tests.proof import Proof

pytestmark = pytest.mark.engine
BATCH = prompts(6, VOCABULARY)
TOKENS = 24
BUILD = "right tokens by plain decoding and one line, an error if strict; nothing of the twin is kept"
RAISED = "the caller gets the error; afterwards right tokens and fresh drafts"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix of 64 MB: more than malloc ever keeps for later."""
    return save_tiny_model(tmp_path_factory.mktemp("big"), hidden=2048, layers=1)


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, SETTINGS)


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[list[int]]:
    """Greedy tokens of plain decoding."""
    set_gate(llm, mode="off")
    return generate(llm, BATCH, TOKENS)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(self_speculation.logger, "warning", lambda *a: lines.append(a[0] % a[1:]))
    return lines


Fault = Callable[[pytest.MonkeyPatch], None]


def raised_in_architecture(error: Exception) -> Fault:
    """When the twin's modules are there, and have registered their names with vLLM."""

    def install(patch: pytest.MonkeyPatch) -> None:
        build = twin.initialize_model

        def fail(*args: Any, **kwargs: Any) -> None:
            build(*args, **kwargs)
            raise error

        patch.setattr(twin, "initialize_model", fail)

    return install


def raised_in_layer(error: Exception, number: int) -> Fault:
    """When some layers have their weights."""

    def install(patch: pytest.MonkeyPatch) -> None:
        refill, count = DraftLinear.refill, iter(range(1000))

        def fail(linear: DraftLinear, source: Any) -> torch.Tensor:
            if next(count) == number:
                raise error
            return refill(linear, source)

        patch.setattr(DraftLinear, "refill", fail)

    return install


def no_memory_left(patch: pytest.MonkeyPatch) -> None:
    """The system gives this process no more memory, from the second layer on until the twin is given up."""
    refill, count = DraftLinear.refill, iter(range(1000))

    def starve(linear: DraftLinear, source: Any) -> torch.Tensor:
        if next(count):
            with address_space(2 << 20):
                return refill(linear, source)
        return refill(linear, source)

    patch.setattr(DraftLinear, "refill", starve)


@contextmanager
def address_space(more: int) -> Iterator[None]:
    """Let this process have so many bytes more than now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


BUILD_FAULTS: dict[str, tuple[Fault, str]] = {
    "MemoryError beside the twin's modules": (raised_in_architecture(MemoryError()), "MemoryError"),
    "CUDA out of memory in the fourth layer": (
        raised_in_layer(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"), 3),
        "CUDA out of memory",
    ),
    "exception of a kernel in the fourth layer": (raised_in_layer(RuntimeError("no such kernel"), 3), "no such kernel"),
    "the system gives no more memory": (no_memory_left, "can't allocate memory"),
}


@pytest.mark.parametrize("fault", BUILD_FAULTS)
def test_a_twin_that_cannot_be_built_leaves_nothing(
    fault: str, model: Path, big: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    install, words = BUILD_FAULTS[fault]
    source = big if install is no_memory_left else model
    wanted = generate(start(source), BATCH, TOKENS)
    parts: list[weakref.ref] = []
    keep = twin._share_parts
    monkeypatch.setattr(
        twin, "_share_parts", lambda t, *args, **kw: (parts.append(weakref.ref(t.model)), keep(t, *args, **kw))
    )
    with monkeypatch.context() as patch:
        install(patch)
        llm = start(source, SETTINGS)
    gc.collect()
    names = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    kept = [part for part in parts if part() is not None]
    left = [name for name in names if name.startswith(twin.PREFIX)]
    tokens, drafts = generate(llm, BATCH, TOKENS), stats(llm)["drafts"]
    with monkeypatch.context() as patch:
        install(patch)
        strict = error_of(lambda: start(source, SETTINGS | {"strict": True}))
    one_line = len(warnings) == 1 and words in warnings[0] and len(warnings[0].splitlines()) == 1
    note(
        proof, fault, "building the twin", BUILD,
        f"{warnings}; {'right' if tokens == wanted else 'wrong'} tokens, {drafts} drafts;"
        f" twins kept: {len(kept)}, names kept: {len(left)}; strict: {strict}",
        one_line and tokens == wanted and not drafts and not kept and not left
        and strict.startswith("UnsupportedError: EfficientRollout cannot run and strict is set") and words in strict,
    )  # fmt: skip


def test_a_twin_that_fails_the_start_up_test_is_not_kept(
    model: Path, expected: Any, warnings: list[str], monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    twins: list[weakref.ref] = []
    build = self_speculation.build_twin

    def remember(*args: Any) -> Any:
        built = build(*args)
        twins.append(weakref.ref(built.model))
        return built

    monkeypatch.setattr(self_speculation, "build_twin", remember)
    monkeypatch.setattr("nemo_rl_efficientrollout.engine.self_test.LEAST_ACCEPTED", 1.5)
    llm = start(model, SETTINGS)
    gc.collect()
    tokens = generate(llm, BATCH, TOKENS)
    note(
        proof, "start-up test failed", "engine start", BUILD,
        f"{warnings}; {'right' if tokens == expected else 'wrong'} tokens; twins kept: {twins[0]() is not None:d}",
        len(warnings) == 1 and tokens == expected and twins[0]() is None,
    )  # fmt: skip


def after(steps: int, original: Any, fault: Callable[[], Any]) -> Any:
    """`original`, until it was called so often."""
    calls = iter(range(10**9))

    def call(*args: Any, **kwargs: Any) -> Any:
        return fault() if next(calls) >= steps else original(*args, **kwargs)

    return call


def explode() -> None:
    raise ZeroDivisionError("injected")


def places(llm: LLM) -> dict[str, tuple[Any, str]]:
    scheduler = core_of(llm).scheduler
    return {
        "drafter's forward": (runner_of(llm).drafter, "_forward"),
        "drafter's sampling": (runner_of(llm).drafter, "_sample"),
        "gate's choose": (scheduler.gate, "choose"),
        "gate's observe": (scheduler.gate, "observe"),
    }


@pytest.mark.parametrize("place", ["drafter's forward", "drafter's sampling", "gate's choose", "gate's observe"])
def test_an_exception_in_mid_rollout_is_raised(
    place: str, llm: LLM, expected: Any, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    set_gate(llm, mode="auto") if place == "gate's observe" else set_gate(llm, **SETTINGS["gate"])
    with monkeypatch.context() as patch:
        owner, name = places(llm)[place]
        patch.setattr(owner, name, after(4, getattr(owner, name), explode))
        error = error_of(lambda: generate(llm, BATCH, TOKENS))
    give_up_requests(llm)
    recovered = drafts_of(llm, BATCH, expected)
    note(
        proof, "exception", place, RAISED, f"{error}; afterwards {recovered}",
        error == "ZeroDivisionError: injected" and recovered == FRESH,
    )  # fmt: skip


@pytest.mark.parametrize("fault", ["an error", "a second late"])
def test_a_worker_that_answers_badly(
    fault: str, llm: LLM, expected: Any, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    """The scheduler asks whether drafters are fit before the first step after any call to the workers."""
    import time

    worker = core_of(llm).model_executor.driver_worker.worker
    answer = worker.efficientrollout_stats
    with monkeypatch.context() as patch:
        slow = lambda: (time.sleep(1.0), answer())[1]  # noqa: E731
        patch.setattr(worker, "efficientrollout_stats", explode if fault == "an error" else slow, raising=False)
        core_of(llm).scheduler.workers_changed()
        tokens: list[Any] = []
        error = error_of(lambda: tokens.append(generate(llm, BATCH, TOKENS)))
    give_up_requests(llm)
    recovered = drafts_of(llm, BATCH, expected)
    if fault == "an error":
        note(
            proof, "a worker answers with an error", "call to the workers", RAISED, f"{error}; afterwards {recovered}",
            "injected" in error and recovered == FRESH,
        )  # fmt: skip
    else:
        right = "right" if tokens == [expected] else "wrong"
        note(
            proof, "a worker answers a second late", "call to the workers", "the step waits; right tokens",
            f"{error or 'no error'}, {right} tokens; afterwards {recovered}",
            tokens == [expected] and not error and recovered == FRESH,
        )  # fmt: skip


def test_probes_that_find_no_memory_leave_a_guess(
    model: Path, expected: Any, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def starve(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    lines: list[str] = []
    monkeypatch.setattr("nemo_rl_efficientrollout.gate.detector.detect", starve)
    monkeypatch.setattr("nemo_rl_efficientrollout.engine.seeding.logger.warning", lambda *a: lines.append(a[0] % a[1:]))
    llm = start(model, SETTINGS | {"gate": {"mode": "auto"}})
    recovered = drafts_of(llm, BATCH, expected)
    note(
        proof, "CUDA out of memory in the gate's probes", "engine start", "one line; the gate starts from a guess",
        f"{lines}; {recovered}", len(lines) == 1 and "out of memory" in lines[0] and recovered == FRESH,
    )  # fmt: skip


CALIBRATIONS = {
    "truncated": (b'{"schema": "efficientrollout.calibration", "ver', "not valid JSON"),
    "binary": (bytes(range(256)), "not text in UTF-8"),
    "version of the future": (b'{"schema": "efficientrollout.calibration", "version": 2}', "version 2"),
    "vanished": (None, "cannot read"),
}


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_a_calibration_that_is_none_when_the_gate_is_set(
    kind: str, model: Path, llm: LLM, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    """Between start and set_gate. The gate before stays where it is refused."""
    content, words = CALIBRATIONS[kind]
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_bytes(content)
    lines: list[str] = []
    monkeypatch.setattr("nemo_rl_efficientrollout.engine.seeding.logger.warning", lambda *a: lines.append(a[0] % a[1:]))
    set_gate(llm, mode="auto", calibration=str(path))
    tokens = generate(llm, BATCH, TOKENS)
    scheduler = core_of(llm).scheduler
    monkeypatch.setattr(scheduler, "_settings", scheduler._settings.model_copy(update={"strict": True}))
    monkeypatch.setattr(scheduler, "_seed", None)
    gate = scheduler.gate
    with pytest.raises(UserError) as caught:
        set_gate(llm, mode="auto", calibration=str(path))
    right = "right" if tokens == expected else "wrong"
    note(
        proof, f"calibration: {kind}", "set_gate", "one line, and probes; if strict an error, the old gate stays",
        f"{lines}; {right} tokens; strict: {caught.value}",
        len(lines) == 1 and words in lines[0] and tokens == expected and words in str(caught.value)
        and scheduler.gate is gate and len(str(caught.value).splitlines()) == 1,
    )  # fmt: skip


def test_a_calibration_of_another_machine_is_refused_by_name(
    model: Path, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, save
    from nemo_rl_efficientrollout.gate.fit import fit
    from tests import sweeps

    timings = sweeps.measured(sweeps.truth())[::9]
    save(from_fit(fit(timings), timings, Provenance(gpu="H100", model="70B")), tmp_path / "other.json")
    lines: list[str] = []
    monkeypatch.setattr("nemo_rl_efficientrollout.engine.seeding.logger.warning", lambda *a: lines.append(a[0] % a[1:]))
    settings = SETTINGS | {"gate": {"mode": "auto", "calibration": str(tmp_path / "other.json")}}
    recovered = drafts_of(start(model, settings), BATCH, expected)
    strict = error_of(lambda: start(model, settings | {"strict": True}))
    note(
        proof, "calibration: of another GPU and model", "engine start", "one line, and probes; an error if strict",
        f"{lines}; {recovered}; strict: {strict}",
        len(lines) == 1 and "gpu 'H100'" in lines[0] and recovered == FRESH and strict.startswith("UserError"),
    )  # fmt: skip
