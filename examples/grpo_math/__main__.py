"""Command line of the GRPO job: `python -m examples.grpo_math`."""

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_rl_efficientrollout.errors import UserError

from .inputs import checked_problems
from .options import Options, settings_from
from .streams import library_output_in

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine in this process: weights pass without copies
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "WARNING",
    "WANDB_SILENT": "true",
    "HF_HUB_OFFLINE": "1",  # models come from disk
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",  # rollout_func is used knowingly
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before the libraries that read them are imported, unless the user has set them."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""For the built-in model: it is too small for a second thread, which on a busy machine costs more than it helps."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    problems: Annotated[
        Path | None, typer.Option(help="JSONL of problem/answer or GSM8K lines. Default: arithmetic.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Llama, Qwen2 or Qwen3 directory. Default: a small built-in one.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt with '{problem}' in it. Default: asks for \\boxed{}.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 30,
    prompts_per_step: Annotated[int, typer.Option(help="Problems per step.")] = 8,
    group: Annotated[int, typer.Option(help="Answers per problem (GRPO's G).")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: 1e-4 built-in, 1e-6 with --model.")] = None,
    dtype: Annotated[str, typer.Option(help="The engine's number type; training is float32.")] = "bfloat16",
    seed: Annotated[int, typer.Option(help="Seed of problems, sampling and training.")] = 0,
    name: Annotated[str, typer.Option(help="Run name; replaces an earlier run of that name.")] = "grpo-math",
    runs_dir: Annotated[Path, typer.Option(help="Runs go to RUNS_DIR/NAME.")] = Path("runs"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: gate.mode=off. Repeatable.")] = None,
    warm_start_steps: Annotated[int, typer.Option(help="Supervised steps of the built-in model.")] = 500,
    compare: Annotated[bool, typer.Option("--compare", help="Time against plain rollouts at the end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON summary on stdout.")] = False,
) -> None:
    """GRPO on math problems with self-speculative rollouts inside stock vLLM."""
    for key, value in (ENVIRONMENT | (ONE_THREAD if model is None else {})).items():
        os.environ.setdefault(key, value)
    signal.signal(signal.SIGTERM, _stop)
    try:
        options = Options(
            problems=problems, model=model, prompt=prompt, steps=steps, prompts_per_step=prompts_per_step,
            group=group, max_new_tokens=max_new_tokens, temperature=temperature, lr=lr, dtype=dtype,
            seed=seed, name=name, runs_dir=runs_dir, warm_start_steps=warm_start_steps, compare=compare,
            settings=settings_from(set_ or []),
        )  # fmt: skip
        given = checked_problems(options)
        with library_output_in(options.run_dir / "job.log") as terminal:
            from .job import run  # after the environment is set: imports torch, vLLM and TRL
            from .progress import Progress

            report = run(options, given, Progress(options.steps, quiet, terminal.err))
            print(json.dumps(summary(report)) if json_ else sentence(report), file=terminal.out)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def _stop(number: int, _: Any) -> None:
    """A scheduler's way to end a job: leave what Ctrl-C leaves."""
    raise SystemExit(128 + number)


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The report without its long parts."""
    return {key: value for key, value in report.items() if key not in ("timeline", "response_tokens")}


def sentence(report: dict[str, Any]) -> str:
    """The outcome in a line or two."""
    rewards = report["reward"]
    third = max(1, len(rewards) // 3)
    text = (
        f"{report['steps']} steps: reward {sum(rewards[:third]) / third:.2f} at first, "
        f"{sum(rewards[-third:]) / third:.2f} at last; {report['tokens']} tokens in "
        f"{sum(report['rollout_seconds']):.1f} s of rollouts"
    )
    if ratio := report["rollout_ratio"]:
        text += (
            f"\nself-speculative / plain rollout time: {ratio['median']:.2f} "
            f"(from {ratio['min']:.2f} to {ratio['max']:.2f} over {ratio['pairs']} pairs)"
        )
    return text


if __name__ == "__main__":
    app()
