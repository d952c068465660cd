"""Checks everything the user gave before torch, vLLM and TRL are imported: mistakes are told at once."""

from nemo_rl_efficientrollout.errors import UserError

from .arithmetic import arithmetic_problems
from .model_directory import check_model_directory
from .options import Options
from .problems import Problem, read_problems
from .record import check_writable

MOST_BUILT_IN = 200_000
"""Problems that are made up before the run: a few seconds' worth."""


def checked_problems(options: Options) -> list[Problem]:
    """The problems of the run, at least as many as one step takes; model and run folders are in order too.

    Raises:
        UserError: the first thing that is wrong. Nothing has been written then.
    """
    if options.problems is None:
        if options.steps * options.prompts_per_step > MOST_BUILT_IN:
            raise UserError(f"more than {MOST_BUILT_IN} built-in problems: lower --steps or --prompts-per-step")
        problems = arithmetic_problems(options.steps, options.prompts_per_step, options.seed)
    else:
        problems = read_problems(options.problems)
    if len(problems) < options.prompts_per_step:
        raise UserError(
            f"problem file '{options.problems}' has {len(problems)} problems, fewer than one step takes: "
            f"lower --prompts-per-step from {options.prompts_per_step} or add problems"
        )
    if options.model is not None:
        check_model_directory(options.model)
    check_writable(options.run_dir)
    return problems
