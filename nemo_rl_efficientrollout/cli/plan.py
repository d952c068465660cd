"""`efficientrollout plan`: what a cluster can expect, before anything ran on it."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import UserError
from ..files import write_whole

if TYPE_CHECKING:
    from ..plan.assumptions import Range
    from ..plan.scenario import Scenario

CANCELLED = 130
SWEPT_DRAWS = 24
LENGTHS = "A preset, MEAN:LONGEST in tokens, a .jsonl or .csv file, a folder of train_data_step*.jsonl, or a run."


def plan(
    model: Annotated[str, typer.Option("--model", help="Name such as qwen2.5-7b, or the folder of a model.")],
    gpu: Annotated[str, typer.Option("--gpu", help="a100, h100, h200 or b200.")],
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Of 8 GPUs, that generate. Default: 1.")] = None,
    engines: Annotated[int | None, typer.Option("--engines", min=1, help="Instead of --nodes.")] = None,
    tensor_parallel: Annotated[int, typer.Option("--tp", min=1, help="GPUs of one engine.")] = 1,
    lengths: Annotated[str, typer.Option("--lengths", help=LENGTHS)] = "math-qwen2.5-7b",
    length_key: Annotated[str | None, typer.Option("--length-key", help="Key or column of the length.")] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Of one step.")] = 128,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Responses to each prompt.")] = 8,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1)] = 350,
    max_length: Annotated[int | None, typer.Option("--max-length", min=1, help="Tokens of a response.")] = None,
    formats: Annotated[list[str] | None, typer.Option("--format", help="Repeatable. Default: all.")] = None,
    acceptance: Annotated[
        list[str] | None, typer.Option("--acceptance", help="α as LOW-HIGH, or FORMAT=LOW-HIGH; repeatable.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Measured step times, of the one --format.")
    ] = None,
    max_draft_length: Annotated[int, typer.Option("--max-draft-length", min=1, max=32, help="Largest γ.")] = 5,
    most_drafted_for: Annotated[int, typer.Option("--max-requests", min=1, help="Largest batch drafted for.")] = 64,
    max_num_seqs: Annotated[int, typer.Option("--max-num-seqs", min=1, help="Of one engine.")] = 256,
    utilization: Annotated[float, typer.Option("--gpu-memory-utilization", min=0.01, max=1.0)] = 0.6,
    lag: Annotated[int, typer.Option("--async-lag", min=0, help="Steps that training lags; 0: synchronous.")] = 0,
    training_nodes: Annotated[int | None, typer.Option("--training-nodes", min=1, help="With --async-lag.")] = None,
    rest_seconds: Annotated[float | None, typer.Option("--rest-seconds", min=0.0, help="Step beside rollout.")] = None,
    stragglers: Annotated[int, typer.Option("--stragglers", min=0, help="Engines that are slow.")] = 0,
    slowness: Annotated[float, typer.Option("--slowness", min=1.0, help="Factor on their steps.")] = 1.5,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="batch=, max-length=, alpha=, format= or tp=VALUE,…; repeatable."),
    ] = None,
    draws: Annotated[int | None, typer.Option("--draws", min=2, help="Of what is not known.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it here; -: print it.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page here.")] = None,
    assumed: Annotated[bool, typer.Option("--assumptions", help="Print every assumed range.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
) -> None:
    """Predict rollout and step time, the best format and memory, with ranges; --sweep asks what if."""
    # numpy, scipy, plotly and torch: seconds that other commands need not wait.
    from ..plan.forecast import DRAWS, forecast
    from ..plan.gpus import gpu_named
    from ..plan.models import read_model
    from ..plan.scenario import GPUS_OF_A_NODE, Scenario
    from ..plan.sweep import Answer, points
    from ..plan.traces import read_lengths

    for path in (as_json, html):
        if path is not None and str(path) != "-" and not path.resolve().parent.is_dir():
            raise UserError(f"cannot write {path}: its folder does not exist; make it first")
    names = _formats(formats, calibration)
    console = Console(stderr=True, quiet=quiet)
    try:
        with _progress(console) as bar:
            asked = Scenario(
                model=read_model(model),
                gpu=gpu_named(gpu),
                engines=_engines(nodes, engines, tensor_parallel, GPUS_OF_A_NODE),
                tensor_parallel=tensor_parallel,
                formats=names,
                rejected=_rejected(acceptance or [], names),
                lengths=read_lengths(lengths, length_key, prompts * samples, _reading(bar)),
                prompts=prompts,
                samples=samples,
                prompt_tokens=prompt_tokens,
                max_length=max_length,
                max_draft_length=max_draft_length,
                most_drafted_for=most_drafted_for,
                max_num_seqs=max_num_seqs,
                gpu_memory_utilization=utilization,
                lag=lag,
                training_gpus=training_nodes * GPUS_OF_A_NODE if training_nodes else None,
                rest_seconds=rest_seconds,
                stragglers=stragglers,
                slowness=slowness,
            )
            wanted = points(asked, sweeps or [])
            for scenario in (asked, *(point.scenario for point in wanted)):
                scenario.model.constants(scenario.tensor_parallel, 1.0)  # what does not divide is said before the work
            count = draws or (SWEPT_DRAWS if wanted else DRAWS)
            task = bar.add_task("simulating", total=count * (1 + len(wanted)))
            forms, model_of_steps = _forms(asked, [p.scenario for p in wanted]), _calibration(calibration)

            def run(scenario: Scenario) -> Any:
                return forecast(scenario, forms, count, seed, model_of_steps, lambda: bar.advance(task))

            found = run(asked)
            answers = [Answer(point, run(point.scenario)) for point in wanted]
    except KeyboardInterrupt:
        typer.echo("efficientrollout: cancelled, nothing was written", err=True)
        raise typer.Exit(CANCELLED) from None
    _write(found, answers, as_json, html)
    if not quiet and str(as_json) != "-":
        _show(found, answers, assumed, [path for path in (as_json, html) if path])
    if found.plain.refusal:
        raise typer.Exit(1)


def _write(found: Any, answers: list[Any], as_json: Path | None, html: Path | None) -> None:
    from ..plan.html import render
    from ..plan.to_json import sweep_to_json, to_json

    content = to_json(found) | ({"what_if": sweep_to_json(answers)} if answers else {})
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    if str(as_json) == "-":
        typer.echo(text)
    files = [(as_json, text)] if as_json is not None and str(as_json) != "-" else []
    files += [(html, render(found, answers))] if html is not None else []
    for path, data in files:
        try:
            write_whole(path, data.encode("utf-8", errors="replace"))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; give another place") from None


def _show(found: Any, answers: list[Any], assumed: bool, written: list[Path]) -> None:
    from ..plan.table import show, show_assumptions, show_sweep

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    show(found, console)
    if answers:
        show_sweep(answers, console)
    if assumed:
        show_assumptions(found, console)
    for path in written:
        console.print(str(path), soft_wrap=True, markup=False)


def _formats(given: list[str] | None, calibration: Path | None) -> tuple[str, ...]:
    from ..errors import nearest
    from ..plan.gpus import KERNELS

    for name in given or []:
        if name not in KERNELS:
            raise UserError(f"--format {name}: unknown{nearest(name, KERNELS)}; known: {', '.join(KERNELS)}")
    if calibration is not None and len(given or []) != 1:
        raise UserError("--calibration holds step times of one format: say with one --format which")
    return tuple(dict.fromkeys(given or KERNELS))


def _engines(nodes: int | None, engines: int | None, tensor_parallel: int, per_node: int) -> int:
    if engines is not None:
        if nodes is not None:
            raise UserError("--nodes and --engines say the same: give one of them")
        return engines
    gpus = (nodes or 1) * per_node
    if gpus % tensor_parallel:
        raise UserError(f"--tp {tensor_parallel}: {gpus} GPUs do not divide into engines of so many; give another size")
    return gpus // tensor_parallel


def _rejected(given: list[str], formats: tuple[str, ...]) -> "dict[str, Range]":
    """1 - α by format, the empty name for all."""
    from ..errors import nearest
    from ..plan.assumptions import Range

    found = {}
    for text in given:
        form, _, rates = text.rpartition("=")
        if form and form not in formats:
            raise UserError(f"--acceptance {text}: '{form}' is not planned for{nearest(form, formats)}")
        try:
            low, high = sorted(float(rate) for rate in (rates.split("-") if "-" in rates else (rates, rates)))
        except ValueError:
            raise UserError(f"--acceptance {text}: expected one rate, or LOW-HIGH, such as 0.95-0.98") from None
        if not 0.0 <= low <= high < 1.0:
            raise UserError(f"--acceptance {text}: expected rates from 0 to below 1")
        found[form] = Range(1.0 - high, 1.0 - low, "given")
    return found


def _forms(asked: "Scenario", others: "list[Scenario]") -> Any:
    if importlib.util.find_spec("torch") is None:
        raise UserError("a plan needs torch, in which the drafter's formats are written: pip install torch")
    from ..drafter.formats import FORMATS

    return {name: FORMATS[name] for scenario in (asked, *others) for name in scenario.formats}


def _calibration(path: Path | None) -> Any:
    if path is None:
        return None
    from ..gate.calibration import load

    found = load(path)
    where = ", ".join(filter(None, (found.provenance.gpu, found.provenance.model, found.provenance.created)))
    return f"{path.name} ({where or 'of unknown origin'})", found.cost_model()


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def _reading(bar: Progress) -> Any:
    tasks: dict[str, Any] = {}

    def show(name: str, share: float) -> None:
        task = tasks.setdefault(name, None)
        if task is None:
            task = tasks[name] = bar.add_task(f"reading {name}", total=1.0)
        bar.update(task, completed=share)

    return show
