"""What exactness is tested over, as data: draft lengths, formats, and what a request can ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.models import VOCABULARY, spelling

MAX = 8
GAMMAS: tuple[int | str, ...] = (*range(1, MAX + 1), "random", "gate")
"""γ of every step: fixed, drawn anew at every step, or chosen by the gate that users have."""
FORMATS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "int8": {},
    "int4": {"simulate": True},
    "int4_symmetric": {"simulate": True},
    "fp8": {"simulate": True},
    "fp8_block": {"simulate": True},
}
"""With what a CPU needs to compute them. `bf16` is the policy itself."""


def settings(format_name: str, max_requests: int = 64) -> dict[str, Any]:
    """Of an engine whose γ is told later."""
    return {
        "drafter": {"format": format_name} | FORMATS[format_name],
        "draft_length": {"max": MAX, "max_requests": max_requests},
        "gate": {"mode": "off"},
        "strict": True,
    }


def gate(gamma: int | str) -> dict[str, Any]:
    """The settings of one of `GAMMAS`."""
    named = {"random": {"mode": "random", "seed": 7}, "gate": {"mode": "auto"}}
    return named[gamma] if isinstance(gamma, str) else {"mode": "fixed", "draft_length": gamma}


@dataclass(frozen=True, slots=True)
class Greedy:
    """Requests at temperature 0, each of which asks for what will concern it."""

    name: str
    ask: Callable[[int, list[int]], dict[str, Any]]
    """SamplingParams of request i, whose plain answer is known."""
    shows: str = "rejected"
    """The count of `Witness` that must not be 0, or the configuration proves nothing."""


def _place(index: int) -> int:
    """Where in its answer a request meets what it asked for: mostly inside a draft, whatever γ is."""
    return 5 + 7 * index % 80


def _bad_words(index: int, plain: list[int]) -> dict[str, Any]:
    """The word that would come, a pair that would come, and what would then come to the first place."""
    first, pair = _place(index), [plain[i] for i in (10, 11)]
    return {"bad_words": [spelling(plain[first]), "".join(map(spelling, pair))]}


def _stop_string(index: int, plain: list[int]) -> dict[str, Any]:
    """Three letters: it begins in one token and ends in the next."""
    place = _place(index)
    return {"stop": [spelling(plain[place])[1] + spelling(plain[place + 1])]}


GREEDY = (
    Greedy("nothing else asked", lambda i, plain: {}),
    Greedy("repetition penalty", lambda i, plain: {"repetition_penalty": 1.2}),
    Greedy("presence penalty", lambda i, plain: {"presence_penalty": 0.8}),
    Greedy("frequency penalty", lambda i, plain: {"frequency_penalty": 0.6}),
    Greedy(
        "all penalties",
        lambda i, plain: {"repetition_penalty": 1.1, "presence_penalty": 0.4, "frequency_penalty": 0.3 - 0.1 * (i % 7)},
    ),
    Greedy("bad words", _bad_words),
    Greedy("allowed tokens", lambda i, plain: {"allowed_token_ids": list(range(i % 3, VOCABULARY, 2))}),
    Greedy("stop tokens", lambda i, plain: {"stop_token_ids": [plain[_place(i)]]}, "stopped_inside"),
    Greedy("EOS", lambda i, plain: {"ignore_eos": False}, "stopped_inside"),
    Greedy(
        "stop tokens from min_tokens on",
        lambda i, plain: {"stop_token_ids": plain[:40], "min_tokens": 20 + i % 9},
        "stopped_inside",
    ),
    Greedy("stop strings", _stop_string, "spelled_inside"),
    Greedy(
        "stop strings kept, logprobs asked",
        lambda i, plain: _stop_string(i, plain) | {"include_stop_str_in_output": True, "logprobs": 1},
        "spelled_inside",
    ),
    Greedy("max_tokens", lambda i, plain: {"max_tokens": 1 + 37 * i % 100}, "capped_inside"),
    Greedy("logprobs asked", lambda i, plain: {"logprobs": 3}),
)
SAMPLING: dict[str, dict[str, Any]] = {
    "temperature 1": {},
    "temperature 0.6": {"temperature": 0.6},
    "temperature 1.3": {"temperature": 1.3},
    "top-p 0.8": {"top_p": 0.8},
    "top-k 3": {"top_k": 3},
    "top-k 5, top-p 0.9, temperature 0.6": {"top_k": 5, "top_p": 0.9, "temperature": 0.6},
    "repetition penalty": {"repetition_penalty": 1.4},
    "presence penalty": {"presence_penalty": 0.9},
    "frequency penalty": {"frequency_penalty": 0.7},
    "all penalties, temperature 1.3": {
        "repetition_penalty": 1.2,
        "presence_penalty": 0.4,
        "frequency_penalty": -0.5,
        "temperature": 1.3,
    },
    "bad words": {"bad_words": [[3], [1, 2]]},
    "allowed tokens": {"allowed_token_ids": [0, 2, 3, 5, 7]},
    "stop tokens": {"stop_token_ids": [2, 6]},
    "stop tokens from min_tokens on": {"stop_token_ids": [2, 6], "min_tokens": 2},
}
"""SamplingParams by configuration; bad words as tokens."""
