"""What this package costs on a GPU while it does not speculate: γ pinned to 0 against stock vLLM as it comes.

The measurement is `benchmarks.overhead`'s. Here each engine has a process of its own: stock vLLM keeps the model runner
and the graph mode that it chooses, which one process cannot have for one engine and not for another. A second stock
engine is the control.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..measure import Block, Decoder, set_environment
from ..overhead import COLUMNS, CONTROL, ENGINES, GOAL, WARM_UP, compare
from ..record import Progress, Record, at_least, check_writable, new_parser, whole_numbers
from .engines import Contestant, open_engine
from .shapes import Built, add_shape_option, build, settle_shape
from .turns import Player, players

OFF = "off"
CONTEXT = 512
"""Most tokens of a request."""


class Engine:
    """One of the engines, step by step."""

    def __init__(self, built: Built, contestant: Contestant, requests: int, kv_gib: float) -> None:
        set_environment()
        llm = open_engine(built, contestant, requests=requests, max_model_len=CONTEXT, kv_gib=kv_gib)
        self._decoder, self._llm = Decoder(llm, built.vocabulary), llm

    def decode(self, size: int, **how: int) -> Block:
        """A block of steps."""
        return self._decoder.decode(size, **how)

    def describe(self) -> str:
        """Model runner, graph mode and scheduling: what vLLM chose."""
        config = self._llm.llm_engine.vllm_config
        runner = "V2" if getattr(config, "use_v2_model_runner", False) else "V1"
        mode = config.compilation_config.cudagraph_mode
        scheduling = "asynchronous" if config.scheduler_config.async_scheduling else "synchronous"
        return f"runner {runner}, graphs {getattr(mode, 'name', mode)}, {scheduling} scheduling"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = new_parser("gpu.overhead", (__doc__ or "").splitlines()[0])
    add_shape_option(parser)
    parser.add_argument("--format", default="int4", help="of the drafter that is not used; default: int4")
    parser.add_argument("--sizes", type=whole_numbers(1), default=(1, 4, 16, 64, 256), help="B; default: 1,4,16,64,256")
    parser.add_argument("--rounds", type=at_least(2), default=6, help="rounds of six blocks; default: 6")
    parser.add_argument("--steps", type=at_least(10), default=60, help="per block; default: 60")
    parser.add_argument("--kv-gib", type=float, default=12.0, help="KV cache of each engine; default: 12")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    settle_shape(parser, options)
    if options.quick:
        options.sizes, options.rounds, options.steps = (1, 2), 2, 10
        options.format, options.kv_gib = "int8", 0.25
    set_environment()
    progress = Progress(options.quiet)
    names = ("shape", "format", "sizes", "rounds", "steps", "kv_gib", "quick")
    record = Record(
        "gpu.overhead",
        f"Step time with γ = 0 over stock vLLM, {options.shape}",
        {name: getattr(options, name) for name in names} | {"goal": GOAL},
        COLUMNS,
    )
    with tempfile.TemporaryDirectory() as directory:
        wanted = _wanted(build(options.shape, Path(directory)), options)
        with players(wanted, own_process=not options.quick) as calls:
            record.notes += [f"{name}: {calls[name]('describe')}" for name in ENGINES]
            for size in options.sizes:
                compare(record, _decode(calls), size, options, progress)
    record.notes.append(CONTROL)
    record.finish(options)
    return 0


def _wanted(built: Built, options: Any) -> dict[str, Player]:
    stock = Contestant("stock")
    off = Contestant(OFF, {"drafter": {"format": options.format}, "gate": {"mode": "off"}})
    return {
        name: Player(Engine, (built, one, max(options.sizes), options.kv_gib))
        for name in ENGINES
        for one in (off if name == OFF else stock,)
    }


def _decode(calls: dict[str, Callable[..., Any]]) -> Callable[..., Block]:
    def decode(name: str, size: int, warm_up: int = WARM_UP, steps: int = 0) -> Block:
        return calls[name]("decode", size, warm_up=warm_up, steps=steps)

    return decode


if __name__ == "__main__":
    sys.exit(main())
