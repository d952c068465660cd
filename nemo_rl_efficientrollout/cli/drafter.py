"""`efficientrollout drafter …`: what a drafter will cost."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..drafter.shapes import model_shape
from ..drafter.size import DrafterSize, drafter_size, policy_size
from ..errors import UserError
from ..files import read_json

if TYPE_CHECKING:  # it imports torch
    from ..drafter.formats import Format

app = typer.Typer(no_args_is_help=True, help=__doc__)
MIB = 2**20


@app.callback()
def drafter() -> None:
    """What a drafter will cost."""


@app.command()
def size(
    model: Annotated[Path, typer.Option("--model", help="Folder of the model; only its config.json is read.")],
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs that share a layer.")] = 1,
    formats: Annotated[list[str] | None, typer.Option("--format", help="Format; repeatable. Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, in bytes.")] = False,
) -> None:
    """Memory that a drafter takes on each GPU beside the policy in BF16, by part of the model."""
    config = read_json(model / "config.json", "give the folder of a model")
    shape = model_shape(config, tensor_parallel)
    policy = policy_size(shape)
    found = {form.name: drafter_size(shape, form) for form in _formats(formats)}
    if as_json:
        content = {
            "model": str(model),
            "tensor_parallel": tensor_parallel,
            "tied_lm_head": shape.tied,
            "policy": {"parts": policy, "total": sum(policy.values())},
            "drafters": {name: _summary(own) for name, own in found.items()},
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        _show(model.resolve().name, tensor_parallel, policy, found)


def _formats(names: list[str] | None) -> "list[Format]":
    from ..drafter.formats import FORMATS, format_named  # torch: seconds

    try:
        return [format_named(name) for name in dict.fromkeys(names or FORMATS)]
    except ValueError as error:
        raise UserError(f"--format: {error}") from None


def _summary(own: DrafterSize) -> dict[str, object]:
    return {
        "parts": own.parts,
        "total": own.total,
        "total_without_lm_head": own.without_lm_head,
        "shared_because_refused": [{"layer": r.layer, "reason": r.reason} for r in own.refusals],
    }


def _show(name: str, tensor_parallel: int, policy: dict[str, int], found: dict[str, DrafterSize]) -> None:
    where = "" if tensor_parallel == 1 else f" on each of {tensor_parallel} GPUs"
    table = Table("")
    for column in ("policy, bf16", *found):
        table.add_column(column, justify="right", no_wrap=True)
    for part, size_of_part in policy.items():
        table.add_row(part, _mib(size_of_part), *(_mib(own.parts[part]) for own in found.values()))
    table.add_section()
    total = sum(policy.values())
    whole = [own.total for own in found.values()]
    without_head = [own.without_lm_head for own in found.values()]
    for title, sizes in (("total", whole), ("total, lm_head shared", without_head)):
        table.add_row(title, _mib(total), *map(_mib, sizes))
        table.add_row("  of the policy", "", *(f"{extra / total:.1%}" for extra in sizes))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"{name}{where}: MiB of the policy, and of a drafter beside it", soft_wrap=True, markup=False)
    console.print(table)
    console.print("·: shared with the policy", markup=False)
    for own_name, own in found.items():
        for refusal in own.refusals:
            console.print(
                f"{own_name}: {refusal.layer} is shared, because {refusal.reason}", soft_wrap=True, markup=False
            )


def _mib(size_in_bytes: int) -> str:
    return f"{size_in_bytes / MIB:,.1f}" if size_in_bytes else "·"
