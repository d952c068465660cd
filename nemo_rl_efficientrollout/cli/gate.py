"""`efficientrollout gate …`: measure, fit, judge and use the cost model."""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..config import MAX_DRAFT_LENGTH
from ..errors import UserError
from ..files import check_place
from ..gate.action import actions
from ..gate.calibration import Provenance, from_fit, load, save
from ..gate.model_constants import read_model_constants, sharpened
from ..gate.prior import Prior
from ..gate.regret import Measured, Regret, accuracy, always, batch_table, by_model, judge, speedups
from ..gate.sweep import LEAST_ROWS, LONGEST_CONTEXT, MOST_REQUESTS, model_name, point, read_sweep
from ..gate.table import rows_of
from ..gate.timing import Timing
from .probe import probe

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.command()(probe)

GRID = ("batch", "seq", "alpha")
DECIDED = ("gamma", "predicted_speedup")
CONTRADICTED = 0.25
"""Weight below which a row is listed: its neighbours say something else, by four times the noise or more."""
CalibrationFile = Annotated[Path, typer.Option("--calibration", help="What `gate fit` wrote.")]
SweepFile = Annotated[Path, typer.Option("--sweep", help="CSV with columns batch, seq, gamma, mode, median_ms.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")]


@app.command("fit")
def fit_command(
    sweep: SweepFile,
    out: Annotated[Path, typer.Option("--out", help="Calibration file to write.")],
    model_constants: Annotated[
        Path | None,
        typer.Option("--model-constants", help="JSON with D, D_ff, L, n_heads, n_kv, d_h, V, tp."),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=LEAST_ROWS, help="Use at most so many rows, chosen one by one.")
    ] = None,
    lm_head: Annotated[bool, typer.Option("--lm-head", help="The times include the lm_head.")] = False,
    host: Annotated[str, typer.Option(help="Recorded in the file.")] = "",
    gpu: Annotated[str, typer.Option(help="Recorded in the file.")] = "",
    vllm: Annotated[str, typer.Option(help="Recorded in the file.")] = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fit the cost model to a sweep and write a calibration file."""
    # scipy takes as long to import as all other commands take to run.
    from ..gate.design import choose
    from ..gate.fit import fit, generic_priors

    timings = read_sweep(sweep)
    constants = read_model_constants(model_constants) if model_constants else None
    check_place(out)
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    provenance = Provenance(host=host, gpu=gpu, vllm=vllm, model=model_name(sweep), source=sweep.name)

    def priors(rows: Sequence[Timing]) -> list[Prior]:
        generic = generic_priors(rows)
        return sharpened(generic, constants, lm_head) if constants is not None else generic

    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("fitting", total=None)
            used = timings
            if max_rows is not None and max_rows < len(timings):
                progress.update(task, total=max_rows, description="choosing rows")
                lengths = tuple(sorted({t.draft_length for t in timings}))
                used = []
                for index in choose(timings, max_rows, actions(lengths), priors):
                    used.append(timings[index])
                    progress.advance(task)
            fitted = fit(used, priors(used))
        calibrated = from_fit(fitted, used, provenance)
    except (np.linalg.LinAlgError, ValidationError):  # singular, or a covariance that is none
        raise UserError(
            f"{sweep.name}: no model of a machine fits these rows; check the units of batch, seq and median_ms"
        ) from None
    save(calibrated, out)
    summary = {
        "calibration": str(out),
        "rows": len(used),
        "rows_of_sweep": len(timings),
        "noise_relative": fitted.model.noise,
        "ridge_rows": fitted.prior.ridge_rows,
        "draft_ratio": fitted.prior.draft_ratio,
        "contradicted": [t.where for t, weight in zip(used, fitted.weights, strict=True) if weight < CONTRADICTED],
        "chosen": [{"where": t.where, "point": point(t)} for t in used] if len(used) < len(timings) else None,
    }
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    elif not quiet:
        _show_fit(summary)


def _show_fit(summary: dict[str, Any]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if summary["chosen"]:
        table = Table("row", "batch,seq,gamma,mode", title="Rows in the order of measuring", title_justify="left")
        for row in summary["chosen"]:
            table.add_row(row["where"], row["point"])
        console.print(table)
    console.print(
        f"{summary['calibration']}: {summary['rows']} of {summary['rows_of_sweep']} rows, noise "
        f"{summary['noise_relative']:.1%}, ridge near {summary['ridge_rows']:g} rows",
        soft_wrap=True,
    )
    if summary["contradicted"]:
        console.print(f"contradicted by their neighbours: {', '.join(summary['contradicted'])}", soft_wrap=True)


@app.command()
def decide(
    calibration: CalibrationFile,
    draft_lengths: Annotated[str, typer.Option(help="γ on offer, such as 0,3,7; 0 always is.")],
) -> None:
    """Read batch,seq,alpha as CSV from stdin; write the same and gamma,predicted_speedup to stdout."""
    model = load(calibration).cost_model()
    lengths = _draft_lengths(draft_lengths)
    if sys.stdin.isatty():
        raise UserError(f"no input: give a CSV file with {','.join(GRID)} on stdin, as in `… < grid.csv`")
    try:
        rows = list(rows_of(sys.stdin, "stdin", GRID))
    except UnicodeDecodeError:
        raise UserError(f"stdin is not text in UTF-8; give a CSV file with {','.join(GRID)}") from None
    header = list(rows[0].values) if rows else list(GRID)
    taken = next((name for name in DECIDED if name in header), None)
    if taken is not None:
        raise UserError(f"stdin:1: there is a column '{taken}' already; remove it")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *DECIDED])
    for row in rows:
        batch = row.whole("batch", least=1, most=MOST_REQUESTS)
        context = row.number("seq", least=0.0, below=LONGEST_CONTEXT)
        speeds = speedups(model, batch, context, row.number("alpha", least=0.0, below=1.0), lengths)
        best = max(speeds, key=lambda length: speeds[length])
        if not math.isfinite(sum(speeds.values())):
            raise UserError(
                f"{row.where}: {calibration} predicts no time here; write it anew with `efficientrollout gate fit`"
            )
        writer.writerow([*row.values.values(), best, f"{speeds[best]:.6g}"])
    typer.echo(text.getvalue(), nl=False)


def _draft_lengths(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    wrong = next(
        (part for part in parts if not part.isdecimal() or len(part) > 9 or int(part) > MAX_DRAFT_LENGTH), None
    )
    if wrong is not None:
        raise UserError(f"--draft-lengths: '{wrong}' is not a γ from 0 to {MAX_DRAFT_LENGTH}; give such as 0,3,7")
    return tuple(sorted({0, *map(int, parts)}))


@app.command()
def validate(calibration: CalibrationFile, sweep: SweepFile, as_json: Json = False) -> None:
    """Judge a calibration by a sweep: errors of times, signs of gains, regret beside simpler ways to choose γ."""
    model = load(calibration).cost_model()
    timings = read_sweep(sweep)
    measured = Measured(timings)
    if len(measured.draft_lengths) < 2:
        raise UserError(f"{sweep.name} has no (batch, seq) with plain decoding and a whole cycle; measure both there")
    found = accuracy(model, timings)
    policies = {
        "this calibration": by_model(model),
        "plain decoding": always(0),
        **{f"always γ = {length}": always(length) for length in measured.draft_lengths[1:]},
        "batch table": batch_table(measured),
    }
    regrets = {name: judge(policy, measured) for name, policy in policies.items()}
    if as_json:
        errors: dict[str, dict[str, float]] = {}
        for (kind, length), error in found.errors.items():
            errors.setdefault(kind, {})[str(length)] = error
        content = {
            "errors": errors,
            "sign_accuracy": found.signs,
            "regret": {name: _summary(regret) for name, regret in regrets.items()},
        }
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    lengths = sorted({length for _, length in found.errors})
    times = Table("", *(f"γ = {length}" for length in lengths), title="Mean error of times", title_justify="left")
    for kind, name in (("plain", "T_T"), ("draft", "T_D"), ("verify", "T_V"), ("cycle", "cycle")):
        cells = [found.errors.get((kind, length)) for length in lengths]
        times.add_row(name, *("" if error is None else f"{error:.1%}" for error in cells))
    console.print(times)
    console.print(f"gains predicted with the right sign: {found.signs:.1%}")
    table = Table("", "mean", "p95", "max", "worst at", title="Regret", title_justify="left")
    for name, regret in regrets.items():
        worst = regret.worst[0]
        where = f"B={worst.batch} S={worst.context:g} α={worst.alpha:g}: γ={worst.chosen}, best {worst.best}"
        table.add_row(name, f"{regret.mean:.2%}", f"{regret.p95:.2%}", f"{regret.max:.1%}", where)
    console.print(table)


def _summary(regret: Regret) -> dict[str, float]:
    return {"mean": regret.mean, "p95": regret.p95, "max": regret.max}


@app.command()
def plot(
    calibration: CalibrationFile,
    out: Annotated[Path, typer.Option("--out", help="Folder for gate.html and PNG files.")],
    sweep: Annotated[Path | None, typer.Option("--sweep", help="Compare with these measured times.")] = None,
) -> None:
    """Draw the cost model, its decisions and its break-even lines; with a sweep, measured times beside predicted."""
    from ..report.gate_plot import write_plots  # the one user of matplotlib

    fitted = load(calibration)
    for path in write_plots(fitted.cost_model(), read_sweep(sweep) if sweep else (), out, fitted.provenance.model):
        typer.echo(str(path))
