"""Acceptance of the self-drafter on a trained small model, by number format, before and after reinforcement.

A small model learns its task, then takes 50 GRPO updates through the example job's own trainer. Every drafter is an
engine of its own on the checkpoint before reinforcement. It answers problems at γ = 8; then it gets the weights from
after reinforcement, first with its drafter frozen, then with the drafter made anew.

Two kinds of problems: lists of usual length, most of which the model works out rightly, and lists of 16 to 24 numbers,
whose answers run to 190 tokens and which are beyond it, so that it is often unsure. An end token ends an answer.

A drafter is frozen by telling the engine that acceptance did not fall: setting `refit.refresh` then keeps it, as it
would by itself after a small change. What the drafter shares with the policy (embedding, norms, keys and values, and
layers that the format does not take) is new also then: a separate draft model would age faster.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from nemo_rl_efficientrollout.errors import UserError

from .acceptance_report import EXACT, Answers, Drafter, Measured, interval, notes, report
from .positions import Positions, watched
from .record import Progress, Record, at_least, check_writable, new_parser
from .trained import LISTS, LONG, Trained, engine_on, lists, set_job_environment, train_model

if TYPE_CHECKING:
    from examples.grpo_math.engine import RolloutEngine
    from examples.grpo_math.problems import Problem

FORMATS = ("int8", "fp8", "fp8_block", "int4", "int4_symmetric")
DIRECT = ("int4", (1, 2, 4))
"""The format and draft lengths at which τ is measured directly too: how far is what is derived from γ = 8 from that?"""


def all_drafters(quick: bool) -> list[Drafter]:
    """Controls, every format with and without its own output head, and int8 by its real kernel."""
    if quick:
        return [EXACT, Drafter("int4")]
    heads = [Drafter(name, lm_head=head, reinforced=head) for name in FORMATS for head in (True, False)]
    return [EXACT, Drafter("bf16"), *heads, Drafter("int8", simulate=False)]


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, print, write."""
    parser = new_parser("acceptance", (__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=at_least(2), default=256, help="of each kind; default: 256")
    parser.add_argument("--draft-length", type=at_least(1), default=8, help="γ; default: 8")
    parser.add_argument("--updates", type=at_least(1), default=50, help="of GRPO; default: 50")
    parser.add_argument("--warm-start-steps", type=at_least(1), default=1000, help="supervised; default: 1000")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.draft_length > 32:
        parser.error(f"argument --draft-length: {options.draft_length} is above 32")
    if options.compiled:
        parser.error("argument --compiled: the job's engine is eager on a CPU; leave it out")
    if options.quick:
        options.requests, options.draft_length, options.updates, options.warm_start_steps = 8, 3, 2, 30
    set_job_environment()
    names = ("requests", "draft_length", "updates", "warm_start_steps", "quick")
    gammas = [str(gamma) for gamma in range(1, options.draft_length + 1)]
    record = Record(
        "acceptance",
        f"acceptance of the self-drafter on a trained small model, T = 1, drafting {options.draft_length}",
        {name: getattr(options, name) for name in names},
        ("update", "drafter", "", *gammas),
    )
    try:
        _fill(record, options, Progress(options.quiet))
    except UserError as error:
        parser.error(str(error))
    record.finish(options)
    return 0


def _fill(record: Record, options: Any, progress: Progress) -> None:
    """Train, then measure every drafter."""
    measured = []
    with tempfile.TemporaryDirectory() as directory:
        trained = train_model(Path(directory), options.warm_start_steps, options.updates, progress)
        record.results.append({"model": trained.describe()})
        record.notes += trained.sentences()
        for drafter in all_drafters(options.quick):
            with progress.phase(drafter.label):
                for result in _measure(drafter, trained, options, record):
                    measured.append(result)
                    report(record, result, options.draft_length)
                    progress.say(" ".join((str(result.update), drafter.label, result.weights, *record.rows[-2][2:])))
    record.notes += notes(measured, options.draft_length)


def _measure(drafter: Drafter, trained: Trained, options: Any, record: Record) -> Iterator[Measured]:
    problems = {kind: lists(kind, options.requests) for kind in LISTS}
    settings = drafter.settings(options.draft_length)
    with engine_on(trained.directory, settings, dtype=drafter.dtype, temperature=drafter.temperature) as engine:

        def result(update: int, frozen: bool) -> Measured:
            answers = {kind: _answer(engine, problems[kind], trained, options.draft_length) for kind in LISTS}
            return Measured(drafter, update, frozen, answers, *_distance(engine, drafter, trained))

        yield (first := result(0, frozen=False))
        if drafter == Drafter(DIRECT[0]):
            record.notes.append(_direct(engine, problems[LONG], trained, first.answers[LONG].positions))
        if not drafter.reinforced:
            return
        _load_and_keep(engine, trained.policy)
        if drafter.format != "bf16":  # which has no weights of its own to freeze
            yield result(options.updates, frozen=True)
        engine.llm.collective_rpc("efficientrollout_requantize")
        _check_versions(engine, policy=1, drafter=1)
        yield result(options.updates, frozen=False)


def _answer(engine: "RolloutEngine", problems: list["Problem"], trained: Trained, longest: int) -> Answers:
    """Answer each problem once. Raises RuntimeError if the engine's counters disagree with what was seen."""
    from examples.grpo_math.prompts import BARE, encode, render
    from examples.grpo_math.reward import reward
    from examples.grpo_math.warm_start import EOS

    tokenizer = trained.tokenizer
    prompts = [encode(render(problem, BARE, tokenizer), tokenizer) for problem in problems]
    with watched(_core(engine).scheduler) as seen:
        rollout = engine.rollout(prompts)
    single = [verification for verifications in seen.values() for verification in verifications]
    counted = sum(v.drafted for v in single), sum(v.accepted for v in single)
    if counted != (rollout.counts["drafted_tokens"], rollout.counts["accepted_tokens"]):
        raise RuntimeError(f"drafted and accepted: {counted} seen, the engine counted {rollout.counts}")
    texts = tokenizer.batch_decode(rollout.responses, skip_special_tokens=True)
    rewards = [reward(text, problem.answer) for text, problem in zip(texts, problems, strict=True)]
    positions = Positions.of(list(seen.values()), longest, EOS)
    return Answers(positions, rollout.tokens / len(prompts), mean(rewards))


def _direct(engine: "RolloutEngine", problems: list["Problem"], trained: Trained, positions: Positions) -> str:
    """Is τ as derived from the longest draft? Answered by drafting less."""
    name, gammas = DIRECT
    longest = positions.reached.shape[1]
    parts = []
    for gamma in [gamma for gamma in gammas if gamma < longest]:
        engine.set_gate({"mode": "fixed", "draft_length": gamma})
        own = _answer(engine, problems, trained, gamma).positions.length(gamma)
        parts.append(f"γ = {gamma}: {interval(own, '.3f')}, derived {positions.length(gamma).value:.3f}")
    engine.set_gate({"mode": "fixed", "draft_length": longest})
    return f"{name}, long lists, τ measured by drafting less: {'; '.join(parts)}"


def _load_and_keep(engine: "RolloutEngine", policy: Any) -> None:
    """New weights into the policy, while the drafter stays as it was."""
    from nemo_rl_efficientrollout.gate.evidence import Evidence

    class NeverWorse(Evidence):
        """Freezes the drafter."""

        def drafter_is_worse(self) -> bool:
            return False

    _core(engine).scheduler.evidence = NeverWorse()
    engine.refit(policy)
    _check_versions(engine, policy=1, drafter=0)


def _check_versions(engine: "RolloutEngine", policy: int, drafter: int) -> None:
    """Raises RuntimeError unless these weights are in the engine and the drafter may draft."""
    stats = engine.stats()
    if (stats["policy_version"], stats["drafter_version"], stats["drafter_problem"]) != (policy, drafter, ""):
        raise RuntimeError(f"policy version {policy} with a drafter of version {drafter} was expected, got {stats}")


def _distance(engine: "RolloutEngine", drafter: Drafter, trained: Trained) -> tuple[float | None, float]:
    """How far the drafter's weights are from the policy's, and which share of what a token reads is quantized."""
    layers = _core(engine).model_executor.driver_worker.worker.model_runner.self_speculation.twin.quantized
    read = sum(weight.numel() for weight in trained.policy.parameters() if weight.dim() == 2)  # tied: head = embedding
    share = sum(layer.source.weight.numel() for layer in layers) / read
    if not drafter.simulate:
        return None, share
    pairs = [(layer.source.weight.float(), layer.method.tensors()[0].float()) for layer in layers]
    norm = sum(float(policy.square().sum()) for policy, _ in pairs)
    apart = sum(float((own - policy).square().sum()) for policy, own in pairs)
    return (apart / norm) ** 0.5 if pairs else 0.0, share


def _core(engine: "RolloutEngine") -> Any:
    """vLLM's engine core, reachable because it runs in this process."""
    return engine.llm.llm_engine.engine_core.engine_core  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    sys.exit(main())
