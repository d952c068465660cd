"""`efficientrollout run …`: NeMo-RL's own jobs with a self-drafter."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..nemo_rl.launcher import SCRIPTS, nemo_rl_directory, read_config, run, script_named
from ..nemo_rl.translation import overrides, translated

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def run_job(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help=f"What to run: {', '.join(SCRIPTS)}.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="NeMo-RL configuration. Default: the job's own.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the translated configuration as JSON and stop.")
    ] = False,
    print_overrides: Annotated[
        bool, typer.Option("--print-overrides", help="Print it as overrides for NeMo-RL's own script and stop.")
    ] = False,
) -> None:
    """Run a NeMo-RL job; further arguments are Hydra overrides as NeMo-RL takes them.

    With policy.generation.backend=efficientrollout rollouts are drafted; with any other backend NeMo-RL runs as it is.
    """
    script = script_named(job)
    path = config or nemo_rl_directory() / "examples" / "configs" / script.config
    for argument in context.args:
        if argument.startswith("--"):
            raise UserError(f"unknown option '{argument}': further arguments are overrides such as key=value")
    wanted = read_config(path, context.args)
    if print_config:
        typer.echo(json.dumps(translated(wanted), indent=2, default=str))
    elif print_overrides:
        typer.echo("\n".join(overrides(wanted)))
    else:
        run(script, wanted, path.stem)
