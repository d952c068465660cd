"""A plan in words: what was assumed, and what must not be read into it."""

from collections.abc import Iterator

from ..report.style import NO_BREAK, percent, short
from .assumptions import CONFIDENCE, MACHINE, rejected
from .forecast import Forecast, Spread, Way
from .memory import GIB, RESERVE_BYTES
from .scenario import Scenario

LEVEL = f"{50 * (1 - CONFIDENCE):.0f} to {50 * (1 + CONFIDENCE):.0f}{NO_BREAK}%"
HONESTY = "Predicted, not measured: no figure of this plan was measured on a GPU."


def seconds(spread: Spread | None) -> str:
    """`51.0 s (44.2 to 62.1)`."""
    if spread is None:
        return "–"
    return f"{short(spread.middle)}{NO_BREAK}s ({short(spread.low)} to {short(spread.high)})"


def ratio(spread: Spread | None) -> str:
    """`1.42 (1.05 to 1.67)`."""
    if spread is None:
        return "–"
    return f"{spread.middle:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def share(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{percent(spread.middle)} ({100 * spread.low:.0f} to {100 * spread.high:.0f})"


def number(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.middle:.1f} ({spread.low:.1f} to {spread.high:.1f})"


def gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def title(scenario: Scenario) -> str:
    """`qwen2.5-7b on 8 × h100`."""
    return f"{scenario.model.name} on {scenario.gpus} × {scenario.gpu.name}"


def verdict(found: Forecast) -> str:
    """What to run, and how sure that is."""
    best = found.best
    if found.plain.refusal:
        return f"It does not fit: {found.plain.refusal}."
    if best is found.plain:
        return "Plain decoding: no format is expected to make a step shorter."
    return (
        f"{best.name}: a rollout of {seconds(best.rollout_s)}, {ratio(best.rollout_ratio)} times as fast as plain; a"
        f" step of {seconds(best.step_s)}, {ratio(best.step_ratio)} times as fast. It is the fastest of all in"
        f" {percent(best.best)} of the draws."
    )


def problems(found: Forecast) -> Iterator[str]:
    """A line for every way that was not simulated."""
    for way in (found.plain, *found.ways):
        if way.refusal:
            yield f"{way.name}: {way.refusal}"


def facts(found: Forecast) -> dict[str, str]:
    """What was asked, with the kind of each input."""
    s = found.scenario
    cluster = f"{s.engines} engines of {s.tensor_parallel} GPU{'s' if s.tensor_parallel > 1 else ''}"
    if s.stragglers:
        cluster += f", {s.stragglers} of them {s.slowness:g} times as slow"
    lengths = s.response_lengths
    loop = "synchronous: generation, log-probabilities, training, refit in turn"
    if s.lag:
        loop = f"asynchronous, {s.lag} steps behind at most, training on {s.training_gpus or s.gpus} GPUs of its own"
    measured = found.calibrated
    return {
        "GPU (data sheet)": f"{s.gpu.title}: {s.gpu.bytes_per_s / 1e12:g} TB/s, {s.gpu.bf16_flops / 1e12:.0f} BF16"
        f" TFLOP/s, {s.gpu.memory_bytes / 1e9:.0f} GB, {s.gpu.source}",
        "model (config.json)": f"{s.model.name}, {'published' if s.model.published else 'from its folder'}",
        "cluster": cluster,
        "workload": f"{s.prompts} prompts × {s.samples} responses, {s.batch:g} per engine; prompts of"
        f" {s.prompt_tokens} tokens",
        "response lengths": f"mean {lengths.mean:.0f}, median {lengths.spread(1)[0]}, longest {lengths.longest} tokens;"
        f" {lengths.origin}",
        "step times (measured)" if measured else "step times (guessed)": measured
        or "roofline of the data sheet with the ranges below",
        "beside the rollout": f"measured: {s.rest_seconds:g} s" if s.rest_seconds is not None else "guessed, see below",
        "loop": loop,
        "drafting": f"γ up to {s.max_draft_length}, batches up to {s.most_drafted_for} requests; the best γ at every"
        " step, of which the gate comes within 2 % in simulations",
    }


def assumptions(found: Forecast) -> Iterator[tuple[str, str, str, str]]:
    """Name, low, high and reason of all that was drawn."""
    rest = {"training", "refit_bytes_per_s"} if found.scenario.rest_seconds is None else set()
    used = {"requantize_reads", *rest} if found.calibrated else set(MACHINE) - {"training", "refit_bytes_per_s"} | rest
    for name, spread in MACHINE.items():
        if name in used:
            yield name, short(spread.low), short(spread.high), spread.reason
    for form in found.scenario.formats:
        spread = rejected(found.scenario.rejected, form)
        yield f"1 - α, {form}", short(spread.low), short(spread.high), spread.reason


def caveats(found: Forecast) -> Iterator[str]:
    """How to read it."""
    yield HONESTY
    yield (
        f"Ranges are the {LEVEL} quantiles of {found.draws} draws of what is not known, and say nothing of what is"
        " wrong with the model itself."
    )
    yield (
        "Published step times leave out output head, sampling and host, so rollouts simulated from them save 9 to 30"
        " points more than was measured (benchmarks/results/simulate-paper.md); here both are part of every draw."
    )
    yield (
        f"The step waits for its last engine; speculation is described for that one. {RESERVE_BYTES / GIB:.0f} GiB per"
        " GPU are set aside for activations and graphs, a guess."
    )


def memory(way: Way) -> str:
    """Bytes in GiB: policy, drafter, KV cache."""
    m = way.memory
    return f"{gib(m.policy)} + {gib(m.drafter)}, KV {gib(m.kv)}"
