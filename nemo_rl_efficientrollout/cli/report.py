"""`efficientrollout report`: runs to look at."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

RUNS = (
    "Folder of a run of the job, with its report.json; or of NeMo-RL's logs (offline W&B run, TensorBoard events); "
    "or entity/project/run_id at W&B. Of several runs the first is the base of the comparison."
)


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help=RUNS)],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="HTML page to write. Default: RUN/report.html; report.html for several."),
    ] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, help="First steps left out of a comparison as warm-up.")] = 1,
) -> None:
    """Draw one run, or compare several, on one HTML page that works offline."""
    # numpy, scipy and plotly: a second that other commands need not wait.
    from ..compare.html import render_reports
    from ..compare.reports import Source, against_first
    from ..report.html import render, write_page

    place = out or _default(runs)
    sources = [Source(run) for run in runs]
    reports = [source.report() for source in sources]
    write_page(
        render(reports[0]) if len(reports) == 1 else render_reports(against_first(sources, skip), reports), place
    )
    typer.echo(str(place))


def _default(runs: list[str]) -> Path:
    if len(runs) > 1:
        return Path("report.html")
    if Path(runs[0]).is_file():
        raise UserError(f"{runs[0]} is a file: say with --out where the page goes")
    return Path(runs[0]) / "report.html" if Path(runs[0]).is_dir() else Path("report.html")
