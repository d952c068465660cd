"""`efficientrollout compare`: a plain and an accelerated run side by side."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..files import check_place

SOURCE = "Folder with an offline W&B run, TensorBoard events or the job's steps.jsonl; or entity/project/run_id at W&B."


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help=f"Baseline. {SOURCE}")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to hold against it, in the same forms.")],
    skip: Annotated[int, typer.Option("--skip", min=0, help="First steps of each run to leave out as warm-up.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="HTML page to write, with figures over steps.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON, with units.")] = False,
) -> None:
    """Compare two training runs: rollout and step time, per token too, reward, mismatch and acceptance."""
    # numpy, plotly and W&B: a second that other commands need not wait.
    from ..compare import compare as hold_against
    from ..compare import read_run
    from ..compare.html import write_comparison
    from ..compare.table import show
    from ..compare.to_json import to_json

    if out is not None:
        check_place(out)
    found = hold_against(read_run(run_a), read_run(run_b), skip)
    if out is not None:
        write_comparison(found, out)
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=1, ensure_ascii=False, allow_nan=False, default=str))
    elif not quiet:
        show(found, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
        if out is not None:
            typer.echo(str(out))
