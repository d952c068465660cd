"""`efficientrollout calibrate`: a calibration file from the real engine on this machine."""

import json
import os
import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..config import parse_overrides, read_settings
from ..engine.versions import installed_vllm
from ..errors import UserError
from ..files import check_place
from ..gate.calibration import Provenance, from_fit, save
from ..gate.step import Load


def calibrate(
    model: Annotated[Path, typer.Option("--model", help="Folder of the model.")],
    out: Annotated[Path, typer.Option("--out", help="Calibration file to write.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Setting, as key=value; repeatable.")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Largest batch size, as the engine will be given.")] = 16,
    max_model_len: Annotated[int, typer.Option(min=64, help="Longest context to measure, in tokens.")] = 1024,
    kv_cache_gib: Annotated[float, typer.Option(min=0.01, help="KV cache; loads that do not fit are left out.")] = 2.0,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share the model.")] = 1,
    budget: Annotated[float, typer.Option("--seconds", min=1.0, help="Time to spend once the engine runs.")] = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure T_T, T_D and T_V(γ) through the engine itself and write a calibration file for `gate.calibration`."""
    settings = parse_overrides(overrides or [])
    read_settings(settings)
    if not os.path.isfile(model / "config.json"):
        raise UserError(f"{model} has no config.json; give the folder of a model")
    check_place(out)
    with Console(stderr=True, quiet=quiet).status("starting the engine") as status:
        from ..engine.calibrate import calibrate as measure  # vLLM: seconds
        from ..engine.calibrate import open_engine
        from ..engine.seeding import hardware

        llm = open_engine(
            model,
            settings,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel,
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
        )

        def show(load: Load, spent: float) -> None:
            status.update(f"{spent:3.0f} of {budget:.0f} s: {load.batch} requests of {load.context:.0f} tokens")

        try:
            done = measure(llm, budget, show)
        finally:
            llm.llm_engine.engine_core.shutdown()
    provenance = Provenance(
        host=platform.node(),
        gpu=hardware(),
        vllm=installed_vllm() or "",
        model=model.resolve().name,
        source="efficientrollout calibrate",
    )
    save(from_fit(done.fit, done.timings, provenance), out)
    summary = {
        "calibration": str(out),
        "seconds": done.seconds,
        "steps": len(done.timings),
        "loads": [{"batch": load.batch, "context": load.context} for load in done.loads],
        "noise_relative": done.fit.model.noise,
    }
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    elif not quiet:
        typer.echo(f"{out}: {summary['steps']} steps at {len(done.loads)} loads in {done.seconds:.0f} s")
