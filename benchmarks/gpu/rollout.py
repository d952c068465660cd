"""One GRPO rollout of the paper's shape: this package against stock vLLM and what stock vLLM offers for speculation.

128 requests per engine, 16 prompts with 8 samples each, prefix caching on, T = 1, with response lengths that are the
same for every contestant (`lengths.py`), each enforced by the largest number of tokens and no end token. Every
contestant is an engine in a process of its own; they take turns, every second round backwards, and each ratio is taken
against stock vLLM of the same run.

Acceptance is `real`, what the model's own drafter reaches, or `imposed`, at a given rate for every position through
vLLM's synthetic rejection sampling: for cost only, as the tokens are then not the policy's. Acceptance of random
weights is a property of noise; give `--model` for one that was trained.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import read_json

from ..measure import ratio_interval, set_environment
from ..record import Progress, Record, at_least, check_writable, new_parser
from .engines import EFFICIENT, STOCK, Contestant, contestants, names_list
from .lengths import MOST, MOST_PROMPT, REQUESTS, Request, rollout
from .playing import Played, RolloutEngine
from .shapes import Built, add_shape_option, build, settle_shape
from .turns import Call, Player, players

WARM_UP_SHRINK = 16.0
"""Before the first round each contestant plays the same rollout, so many times shorter."""
REAL = "real"


def main(arguments: list[str] | None = None) -> int:
    """Play, print, write."""
    names = tuple(contestants("int4", on_gpu=True))
    parser = new_parser("gpu.rollout", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model's folder instead of a shape")
    parser.add_argument("--format", default="int4", help="of our drafter; default: int4")
    parser.add_argument("--contestants", type=names_list(names), default=names, help=f"default: {','.join(names)}")
    parser.add_argument("--acceptance", default=REAL, help="'real', or a rate to impose, such as 0.958")
    parser.add_argument("--rounds", type=at_least(2), default=3, help="default: 3")
    parser.add_argument("--requests", type=at_least(1), default=REQUESTS, help=f"default: {REQUESTS}")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of lengths and prompts; default: 0")
    parser.add_argument("--kv-gib", type=float, default=10.0, help="KV cache of each engine; default: 10")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    rate = None if options.acceptance == REAL else _rate(parser, options.acceptance)
    options.contestants = tuple(dict.fromkeys((STOCK, *options.contestants)))
    if options.quick:
        options.format, options.rounds, options.requests, options.kv_gib = "int8", 2, 8, 0.25
        if rate is not None:
            parser.error("argument --acceptance: vLLM imposes acceptance on GPUs only; leave it out with --quick")
    set_environment()
    keys = ("shape", "format", "contestants", "acceptance", "rounds", "requests", "seed", "kv_gib", "quick")
    record = Record(
        "gpu.rollout",
        f"A rollout of {options.requests} requests, {options.model or options.shape}, drafter {options.format}, "
        f"acceptance {'real' if rate is None else f'imposed at {rate:g}'}",
        {key: getattr(options, key) for key in keys} | {"mode": REAL if rate is None else "imposed"},
        (
            "contestant",
            "seconds",
            "tokens/s",
            "over stock",
            "95 % interval",
            "speculates",
            "γ",
            "accepted",
            "GiB more",
        ),
    )
    with tempfile.TemporaryDirectory() as directory:
        try:
            built = _built(options, Path(directory))
        except UserError as error:
            parser.error(str(error))
        _run(record, built, rate, options, Progress(options.quiet))
    record.finish(options)
    return 0


def _rate(parser: Any, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        parser.error(f"argument --acceptance: '{text}' is neither 'real' nor a rate from 0 to 1")
    return rate


def _built(options: Any, folder: Path) -> Built:
    if options.model is None:
        return build(options.shape, folder)
    config = read_json(options.model / "config.json", "give a model's folder")
    return Built(options.model.name, options.model.resolve(), config, dummy=False)


def _run(record: Record, built: Built, rate: float | None, options: Any, progress: Progress) -> None:
    import torch

    shrink = 50.0 if options.quick else 1.0
    requests = rollout(options.seed, options.requests, shrink)
    short = rollout(options.seed, options.requests, shrink * WARM_UP_SHRINK)
    known = contestants(options.format, torch.cuda.is_available())
    chosen = comparable({name: known[name] for name in options.contestants}, built, rate)
    record.notes += [
        f"{name}: left out, vLLM's own draft model would have other dummy weights than the policy's"
        for name in options.contestants
        if name not in chosen
    ]
    engine = {
        "requests": options.requests,
        "max_model_len": 256 if options.quick else MOST_PROMPT + MOST,
        "kv_gib": options.kv_gib,
        "acceptance": rate,
        "enable_prefix_caching": True,
    }
    wanted = {name: Player(RolloutEngine, (built, contestant, engine, 1.0)) for name, contestant in chosen.items()}
    rounds: list[dict[str, Played]] = []
    with players(wanted, own_process=not options.quick) as calls:
        for name in calls:
            with progress.phase(f"warming up {name}"):
                calls[name]("play", short, -1)
        for index in range(options.rounds):
            with progress.phase(f"round {index + 1} of {options.rounds}"):
                rounds.append(_round(calls, requests, index))
            said = ", ".join(f"{name} {played.seconds:.2f} s" for name, played in rounds[-1].items())
            progress.say(f"round {index + 1}: {said}")
    for name in chosen:
        _report(record, name, rounds)
    record.notes += _notes(requests, rate, options)


def comparable(wanted: dict[str, Contestant], built: Built, rate: float | None) -> dict[str, Contestant]:
    """Those whose acceptance means something: a draft model with weights of its own has none worth measuring."""
    return {name: one for name, one in wanted.items() if one.speculation is None or not built.dummy or rate is not None}


def _round(calls: dict[str, Call], requests: Sequence[Request], index: int) -> dict[str, Played]:
    order = list(calls) if index % 2 == 0 else list(reversed(calls))
    played = {name: calls[name]("play", requests, index) for name in order}
    return {name: played[name] for name in calls}


def _report(record: Record, name: str, rounds: Sequence[dict[str, Played]]) -> None:
    own, stock = [r[name] for r in rounds], [r[STOCK] for r in rounds]
    value, low, high = ratio_interval([([s.seconds], [o.seconds]) for s, o in zip(stock, own, strict=True)])
    steps = sum(one.steps for one in own)
    drafted = sum(one.drafted for one in own)
    result = {
        "contestant": name,
        "rollout_seconds": median(one.seconds for one in own),
        "tokens_per_second": sum(one.tokens for one in own) / sum(one.seconds for one in own),
        "over_stock": {"value": value, "low": low, "high": high},
        "speculating_share": sum(one.speculating_steps for one in own) / steps,
        "mean_draft_length": sum(one.draft_lengths for one in own) / steps,
        "acceptance": sum(one.accepted for one in own) / drafted if drafted else None,
        "extra_bytes": own[0].gpu_bytes - stock[0].gpu_bytes if own[0].gpu_bytes and stock[0].gpu_bytes else None,
        "rounds": [asdict(one) for one in own],
    }
    record.results.append(result)
    record.rows.append(
        (
            name,
            f"{result['rollout_seconds']:.2f}",
            f"{result['tokens_per_second']:.0f}",
            f"{value:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{result['speculating_share']:.0%}",
            f"{result['mean_draft_length']:.2f}",
            f"{result['acceptance']:.3f}" if drafted else "",
            f"{result['extra_bytes'] / 2**30:.2f}" if result["extra_bytes"] is not None else "",
        )
    )


def _notes(requests: Sequence[Request], rate: float | None, options: Any) -> list[str]:
    lengths = [request.response_tokens for request in requests]
    notes = [
        f"responses: mean {sum(lengths) / len(lengths):.0f} tokens, median {median(lengths):.0f}, longest"
        f" {max(lengths)}; prompts up to {max(request.prompt_tokens for request in requests)} tokens",
        f"over stock: seconds of stock vLLM over the contestant's; {EFFICIENT}: the automatic gate, never calibrated",
        "accepted: accepted drafts over verified ones; γ: mean over all steps",
        "every engine's core is in one process with its caller, which vLLM's own default is not",
    ]
    if rate is not None:
        notes.append(
            "imposed acceptance: costs are real, tokens are not the policy's; vLLM's own draft model then draws its"
            " drafts greedily, which is cheaper than the sampling that ours still does"
        )
    if options.quick:
        notes.append("imposed acceptance is left out: vLLM's CPU sampler has none; stock-draft is an exact BF16 copy")
    return notes


if __name__ == "__main__":
    sys.exit(main())
