"""Does self-speculation change what is learned? GRPO from one model, with plain and with self-speculative rollouts.

A model of about 100 M parameters first learns the example job's task from worked answers, on this device. Then the
job's own trainer takes it through GRPO, several seeds each with γ pinned to 0 and with the automatic gate, all on one
engine, which gets the warm-started weights back before every run. A pair of runs with one seed sees the same problems
in the same order; what is sampled differs, as it would between any two runs, so that only means can be compared.

A finished run is kept in `--cache`: a later call with more seeds goes on from there.
"""

import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import read_json, write_whole

from ..positions import Verification, watched
from ..record import Parser, Progress, Record, at_least, check_writable, new_parser, whole_numbers
from ..trained import engine_on, reinforce, set_job_environment
from .train_report import MODES, report

if TYPE_CHECKING:
    from examples.grpo_math.engine import RolloutEngine
    from examples.grpo_math.warm_start import WarmStart

LARGE = {"hidden": 768, "layers": 13, "heads": 12, "intermediate": 2816, "learning_rate": 4e-4, "batch": 64}
"""101 M parameters."""


def main(arguments: list[str] | None = None) -> int:
    """Train, compare, write."""
    parser = new_parser("gpu.train_small", (__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=whole_numbers(0), default=(0, 1, 2), help="default: 0,1,2")
    parser.add_argument("--updates", type=at_least(1), default=30, help="of GRPO in each run; default: 30")
    parser.add_argument("--warm-start-steps", type=at_least(1), default=1500, help="supervised; default: 1500")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of GRPO; default: 2e-5")
    parser.add_argument("--format", default="int4", help="of the drafter; default: int4")
    parser.add_argument("--draft-length", type=at_least(1), default=8, help="most; default: 8")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the model and finished runs here")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown, options.cache and options.cache / "run")
    _settle(parser, options)
    set_job_environment()
    names = ("seeds", "updates", "warm_start_steps", "learning_rate", "format", "draft_length", "quick")
    record = Record(
        "gpu.train_small",
        f"GRPO with plain and self-speculative rollouts, {len(options.seeds)} seeds, drafter {options.format}",
        {name: getattr(options, name) for name in names},
        ("rollouts", "reward, first third", "last third", "rollout s", "step s", "accepted", "τ", "speculating"),
    )
    try:
        with tempfile.TemporaryDirectory() as directory:
            _fill(record, options, options.cache or Path(directory), Progress(options.quiet))
    except UserError as error:
        parser.error(str(error))
    record.finish(options)
    return 0


def _settle(parser: Parser, options: Any) -> None:
    import torch

    options.seeds = tuple(dict.fromkeys(options.seeds))
    if not 0 < options.learning_rate < 1:
        parser.error(f"argument --learning-rate: {options.learning_rate:g} is not between 0 and 1")
    if options.draft_length > 32:
        parser.error(f"argument --draft-length: {options.draft_length} is above 32")
    if options.quick:
        options.seeds, options.updates, options.warm_start_steps = (0, 1), 2, 20
        options.format, options.draft_length = "int8", 3
    elif not torch.cuda.is_available():
        parser.error("a model of 100 M parameters needs a GPU; give --quick to try this on a CPU")


def _fill(record: Record, options: Any, cache: Path, progress: Progress) -> None:
    from examples.grpo_math.warm_start import WarmStart

    shape = {} if options.quick else LARGE
    recipe = WarmStart(steps=options.warm_start_steps, **shape)
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    wanted = [(mode, seed) for seed in options.seeds for mode in (MODES if seed % 2 == 0 else reversed(MODES))]
    for mode, seed in wanted:
        file = _file(cache, recipe, mode, seed, options)
        if file.exists():
            runs[mode, seed] = read_json(file, "delete it to run again")
            progress.say(f"{mode}, seed {seed}: finished before, in {file.name}")
    if len(runs) < len(wanted):
        model = _warm_start(cache, recipe, record, progress)
        settings = {
            "drafter": {"format": options.format},
            "draft_length": {"max": options.draft_length},
            "strict": True,
        }
        with engine_on(model, settings) as engine:
            for mode, seed in wanted:
                if (mode, seed) in runs:
                    continue
                with progress.phase(f"{mode}, seed {seed}"):
                    runs[mode, seed] = _run(engine, model, cache, mode, seed, options)
                content = json.dumps(runs[mode, seed]).encode()
                write_whole(_file(cache, recipe, mode, seed, options), content)
                rewards = runs[mode, seed]["reward"]
                progress.say(f"{mode}, seed {seed}: reward {rewards[0]:.2f} at first, {rewards[-1]:.2f} at last")
    report(record, runs, options)


def _file(cache: Path, recipe: "WarmStart", mode: str, seed: int, options: Any) -> Path:
    """Of a finished run; its name changes with everything that the run depends on."""
    parts = (recipe.key, options.updates, options.learning_rate, options.format, options.draft_length, MODES[mode])
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    return cache / f"run-{mode}-{seed}-{key}.json"


def _warm_start(cache: Path, recipe: "WarmStart", record: Record, progress: Progress) -> Path:
    import torch
    from transformers.utils import logging

    from examples.grpo_math.warm_start import warm_started_model

    logging.disable_progress_bar()
    losses: list[float] = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32: supervised training needs no more
    with progress.phase(f"{recipe.steps} supervised steps"), torch.device(device):
        model = warm_started_model(cache, recipe, lambda step, loss: losses.append(loss))
    torch.set_float32_matmul_precision("highest")
    if losses:
        record.results.append({"model": dataclasses.asdict(recipe), "losses": losses})
        record.notes.append(
            f"warm start: loss per answer token {losses[0]:.2f} at first, {mean(losses[-10:]):.3f} last"
        )
    return model


def _run(engine: "RolloutEngine", model: Path, cache: Path, mode: str, seed: int, options: Any) -> dict[str, Any]:
    """One GRPO run from the warm-started weights."""
    import torch

    from examples.grpo_math.model import load_policy
    from examples.grpo_math.record import Step

    policy, tokenizer = load_policy(model)
    engine.refit(policy)  # the last run's weights are in there
    engine.set_gate(MODES[mode])
    torch.manual_seed(seed)
    steps: list[Step] = []
    reached, kept = ([0] * options.draft_length for _ in range(2))
    with tempfile.TemporaryDirectory(dir=cache) as scratch, _positions(engine, reached, kept) as count:

        def on_step(step: Step) -> None:
            count()
            steps.append(step)

        rate = options.learning_rate
        reinforce(engine, Path(scratch), policy, tokenizer, options.updates, rate, on_step, seed)
    columns = (
        "reward", "rollout_seconds", "total_seconds", "tokens", "acceptance_rate", "acceptance_length",
        "speculating_fraction", "draft_length_mean", "entropy",
    )  # fmt: skip
    lists = {name: [getattr(step, name) for step in steps] for name in columns}
    return {"mode": mode, "seed": seed, "parameters": policy.num_parameters(), "reached": reached, "kept": kept} | lists


@contextmanager
def _positions(engine: "RolloutEngine", reached: list[int], kept: list[int]) -> Iterator[Any]:
    """While the block runs, the yielded call adds what was seen since the last one to the counts by position."""
    from examples.grpo_math.warm_start import EOS

    core: Any = engine.llm.llm_engine.engine_core
    with watched(core.engine_core.scheduler) as seen:

        def count() -> None:
            for verification in (one for request in seen.values() for one in request):
                _add(verification, EOS, reached, kept)
            seen.clear()

        yield count


def _add(verification: Verification, end: int, reached: list[int], kept: list[int]) -> None:
    drafted, accepted = verification.until(end)
    for position in range(min(drafted, accepted + 1)):
        reached[position] += 1
        kept[position] += position < accepted


if __name__ == "__main__":
    sys.exit(main())
