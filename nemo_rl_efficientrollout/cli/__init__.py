"""The command `efficientrollout`."""

import io
import json
import os
import sys
from typing import Annotated, Any

import typer

from .. import __version__, engine_kwargs
from ..config import parse_overrides
from ..engine.versions import SUPPORTED, installed_vllm
from ..errors import UserError, one_line
from . import drafter, gate
from .calibrate import calibrate
from .compare import compare
from .doctor import doctor
from .plan import plan
from .report import report
from .run import CONTEXT, run_job

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(gate.app, name="gate")
app.add_typer(drafter.app, name="drafter")
app.command()(calibrate)
app.command("run", context_settings=CONTEXT)(run_job)
app.command()(compare)
app.command()(doctor)
app.command()(plan)
app.command()(report)

Mistake: Any = typer.BadParameter.__mro__[2]
"""The base of every error in how a command is called: click's ClickException, or typer's own copy of it."""


@app.command()
def version() -> None:
    """Versions of this package and of vLLM, and the vLLM versions it supports."""
    typer.echo(f"nemo_rl_efficientrollout {__version__}")
    typer.echo(f"vllm {installed_vllm() or 'not installed'} (supported: {', '.join(SUPPORTED)})")


@app.command()
def kwargs(
    model: Annotated[str, typer.Argument(help="What the engine is given as `model`.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Setting, as key=value; repeatable.")] = None,
) -> None:
    """Print the vLLM engine arguments for these settings as JSON."""
    typer.echo(json.dumps(engine_kwargs(model, parse_overrides(overrides or [])), indent=2))


def main() -> None:
    """Run the command; bad input is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # half a surrogate pair, or a terminal without γ, costs no result
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        typer.echo(f"efficientrollout: {error}", err=True)
        code = error.exit_code
    except Mistake as error:
        if error.format_message():  # none where a group without a command was answered with its help
            typer.echo(f"efficientrollout: {one_line(error.format_message())}", err=True)
        code = error.exit_code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # what no command expects: a full disk, a name too long for it
        typer.echo(f"efficientrollout: {one_line(str(error))}", err=True)
        code = UserError.exit_code
    sys.exit(code)
