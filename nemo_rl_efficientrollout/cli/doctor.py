"""`efficientrollout doctor`: go or no-go for this machine."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..doctor import Finding, Job, examine, is_go, read_job
from ..errors import UserError

COLORS = {"ok": "green", "warn": "yellow", "fail": "bold red", "not checked": "dim"}
NO_GO = 1
"""Exit code. 2 is bad input, as everywhere."""


def doctor(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides of --config, as NeMo-RL's.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The job's NeMo-RL configuration.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Folder of the policy, to check its memory.")] = None,
    worker_pythons: Annotated[
        list[Path] | None,
        typer.Option("--worker-python", help="Interpreter of an environment that runs vLLM; repeatable."),
    ] = None,
    engine: Annotated[
        bool | None,
        typer.Option("--engine/--no-engine", help="Start the real engine on a tiny model. Default: with a GPU."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table: only what failed, on stderr.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, without progress.")] = False,
) -> None:
    """Say go (exit code 0) or no-go (1) for this machine, and what to do: versions, plugin, kernels, memory, engine."""
    if overrides and config is None:
        raise UserError(f"'{overrides[0]}' overrides a configuration: give its file with --config")
    if model is not None and not os.path.isfile(model / "config.json"):
        raise UserError(f"{model} has no config.json; give the folder of a model")
    job, read = Job(), []
    if config is not None:
        job, finding = read_job(config, overrides or ())
        read = [finding]
    if model is not None:
        job = replace(job, model=model)
    with Console(stderr=True, quiet=quiet or as_json).status("looking around") as status:
        findings = [*examine(job, worker_pythons or (), engine, status.update), *read]
    if as_json:
        typer.echo(json.dumps(report(findings), indent=1))
    elif quiet:
        for finding in findings:
            if finding.verdict == "fail":
                typer.echo(f"efficientrollout: {finding.name}: {finding.found}; {finding.advice}", err=True)
    else:
        _show(findings)
    if not is_go(findings):
        raise typer.Exit(NO_GO)


def report(findings: Sequence[Finding]) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "verdict": "go" if is_go(findings) else "no-go",
        "host": platform.node(),
        "findings": [asdict(finding) for finding in findings],
    }


def _show(findings: Sequence[Finding]) -> None:
    table = Table("", "check", "found", "what to do")
    for finding in findings:
        verdict = Text(finding.verdict, style=COLORS[finding.verdict])
        table.add_row(verdict, Text(finding.name), Text(finding.found), Text(finding.advice))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    failed = sum(finding.verdict == "fail" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    verdict = f"no-go: {failed} failed" if failed else "go"
    console.print(f"{platform.node()}: {verdict}, {warned} warnings" if warned else f"{platform.node()}: {verdict}")
