"""The whole job: policy, engine, training, comparison, report."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError

from nemo_rl_efficientrollout.alarm import RINGING, Alarms
from nemo_rl_efficientrollout.errors import UserError

from . import wandb_log
from .compare import compare
from .engine import RolloutEngine, describe_machine
from .model import describe_model, load_policy
from .options import Options
from .problems import Problem, write_problems
from .progress import Progress, Warnings
from .prompts import BARE, INSTRUCTION, encode, longest_prompt, render
from .record import Record, Step, writing
from .train import train
from .warm_start import WarmStart, warm_started_model

LEARNING_RATE = {"built-in": 1e-4, "given": 1e-6}
"""A small fresh model takes, and needs, much larger steps than a trained large one."""


class EngineDiedError(UserError):
    """The engine's process ended in the middle of the job."""

    exit_code = 1  # no mistake of the user's


def run(options: Options, problems: list[Problem], progress: Progress) -> dict[str, Any]:
    """Run the job and return its report.

    An interrupt (Ctrl-C) leaves the report of the finished steps and is raised again.
    """
    logging.getLogger("vllm.efficientrollout").addHandler(Warnings(progress))
    model_dir = options.model or _built_in_model(options, progress)
    policy, tokenizer = load_policy(model_dir)
    template = options.prompt or (INSTRUCTION if options.model else BARE)
    room = policy.config.max_position_embeddings - options.max_new_tokens
    max_model_len = longest_prompt(problems, template, tokenizer, room) + options.max_new_tokens
    prompts = [render(problem, template, tokenizer) for problem in problems]

    with progress.phase("starting the rollout engine"):
        engine = RolloutEngine(
            model_dir,
            options.settings,
            dtype=options.dtype,
            max_model_len=max_model_len,
            max_num_seqs=min(options.rows, 256),
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
    record = Record(
        options.run_dir,
        name=options.name,
        settings=options.as_dict(),
        model=describe_model(model_dir, policy, options.dtype),
        machine=describe_machine(),
    )
    if options.problems is None:
        with writing(options.run_dir):
            write_problems(options.run_dir / "problems.jsonl", problems)

    board, alarms = wandb_log.start(options), Alarms()

    def on_step(step: Step) -> None:
        metrics = wandb_log.metrics(step)
        raised = alarms.observe({name.removeprefix("train/"): value for name, value in metrics.items()})
        record.add(step, raised)
        board.log(metrics | {f"train/{RINGING}": float(len(alarms.ringing))}, step=step.step)
        progress.step(step)
        for alarm in raised:
            wandb_log.raise_alarm(board, alarm, step.step)
            progress.alarm(alarm)

    answers = [problem.answer for problem in problems]
    rate = options.lr or LEARNING_RATE["given" if options.model else "built-in"]
    finished = False
    try:
        with _reported(record, progress):
            train(options, policy, tokenizer, prompts, answers, engine, rate, on_step)
            if options.compare:
                with progress.phase("comparing plain and self-speculative rollouts"):
                    batch = [encode(text, tokenizer) for text in prompts[: options.prompts_per_step]]
                    repeated = [ids for ids in batch for _ in range(options.group)]
                    record.rollout_ratio = compare(engine, repeated)
        finished = True
    finally:
        try:
            board.log(wandb_log.report_figures(record.report()))
        finally:
            board.finish(exit_code=0 if finished else 1)
    return record.report()


@contextmanager
def _reported(record: Record, progress: Progress) -> Iterator[None]:
    """Whatever ends the block, the report tells of the steps that were finished."""
    try:
        yield
    except EngineDeadError as error:  # another process, if VLLM_ENABLE_V1_MULTIPROCESSING is 1
        raise EngineDiedError(
            f"the rollout engine died after {len(record.steps)} finished steps, which are in {record.run_dir}; its own"
            f" words are in {record.run_dir / 'job.log'}; start the job again"
        ) from error
    finally:
        record.write_json()
        progress.say(f"report: {record.write_html()}")


def _built_in_model(options: Options, progress: Progress) -> Path:
    recipe = WarmStart(steps=options.warm_start_steps)
    with writing(options.runs_dir), progress.phase("warm-starting the built-in model") as status:

        def on_step(step: int, loss: float) -> None:
            status.update(f"warm-starting the built-in model: {step}/{recipe.steps}, loss {loss:.2f}")

        return warm_started_model(options.runs_dir / ".cache", recipe, on_step)
