"""`efficientrollout gate probe`: what this machine's memory and matrix units do to a decode step."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..files import read_json

if TYPE_CHECKING:  # it imports torch
    from ..gate.detector import Detection

DEFAULT_SHAPE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
"""Qwen2.5-0.5B: small enough for a laptop, larger than caches."""


def probe(
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Model folder or config.json; default: the shape of Qwen2.5-0.5B."),
    ] = None,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Most requests times γ + 1.")] = 256,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs that share a layer.")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N.")] = None,
    budget: Annotated[float, typer.Option("--seconds", help="Time to spend.")] = 5.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure memory bandwidth and GEMM time over rows, and where weights stop being free."""
    config = DEFAULT_SHAPE
    if model is not None:
        file = model / "config.json" if os.path.isdir(model) else model
        config = read_json(file, "give a model folder or its config.json")
    from ..gate.detector import detect, layer_shapes  # torch: seconds

    layers = layer_shapes(config, tensor_parallel)
    with Console(stderr=True, quiet=quiet).status(f"measuring for about {budget:g} s"):
        detection = detect(layers, max_rows, device, budget)
    if as_json:
        typer.echo(json.dumps(detection.to_dict(), indent=1))
    else:
        _show(detection)


def _show(detection: "Detection") -> None:
    console = Console(highlight=False)
    console.print(f"{detection.device} ({detection.hardware}), {detection.choice}", soft_wrap=True)
    console.print(f"memory read at {detection.bandwidth_bytes_per_s / 1e9:.1f} GB/s")
    precisions = list(detection.curves)
    table = Table("rows", *precisions, title="Milliseconds of all GEMMs of a step", title_justify="left")
    for points in zip(*detection.curves.values(), strict=True):
        table.add_row(str(points[0][0]), *(f"{1e3 * seconds:.3f}" for _, seconds in points))
    console.print(table)
    for precision in precisions:
        ridge = detection.ridge_rows[precision]
        where = "beyond the rows measured" if ridge is None else f"near {ridge:.0f} rows"
        console.print(f"{precision}: compute takes as long as reading the weights {where}")
    for tried in detection.kernels:
        console.print(f"{tried.kernel} ({tried.precision}): {tried.why_not or 'measured'}", soft_wrap=True)
