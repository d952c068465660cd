"""float32, temperature 0: speculation must give the very answers of plain decoding, whatever requests ask for."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from vllm import LLM, SamplingParams

from tests.engines import prompts, set_gate, start
from tests.lossless.matrix import FORMATS, GAMMAS, GREEDY, MAX, Greedy, gate, settings
from tests.lossless.witness import Witness, watch
from tests.models import VOCABULARY, save_tiny_model, save_tokenizer
from tests.proof import Proof

pytestmark = pytest.mark.engine
NEW_TOKENS = 96
BATCH = prompts(48, VOCABULARY)
EOS = 7
NATIVE = ("bf16", "int8")
REFUSAL = "min_p and logit_bias sampling parameters are not yet supported with speculative decoding"
Answer = tuple[list[int], str, str | None, Any]
"""Tokens, text, and why it ended."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny_model(tmp_path_factory.mktemp("model"))
    save_tokenizer(directory, VOCABULARY, EOS)
    return directory


@pytest.fixture(scope="module")
def plain(model: Path) -> LLM:
    return start(model, skip_tokenizer_init=False)


@pytest.fixture(scope="module")
def engine(model: Path) -> Callable[[str], LLM]:
    return cache(lambda format_name: start(model, settings(format_name), skip_tokenizer_init=False))


@pytest.fixture(scope="module")
def unasked(plain: LLM) -> list[list[int]]:
    """Plain answers to requests that ask for nothing."""
    return [tokens for tokens, *_ in answer(plain, [{}] * len(BATCH))]


@pytest.fixture(scope="module")
def expected(plain: LLM, unasked: list[list[int]]) -> Callable[[tuple[Greedy, ...]], tuple[list[dict], list[Answer]]]:
    """What the requests of a batch ask for, in turn, and what plain decoding answers."""

    @cache
    def of(cases: tuple[Greedy, ...]) -> tuple[list[dict[str, Any]], list[Answer]]:
        asked = [cases[i % len(cases)].ask(i, tokens) for i, tokens in enumerate(unasked)]
        return asked, answer(plain, asked)

    return of


def answer(llm: LLM, asked: list[dict[str, Any]]) -> list[Answer]:
    ordinary = {"temperature": 0.0, "max_tokens": NEW_TOKENS, "ignore_eos": True}
    params = [SamplingParams(**(ordinary | own)) for own in asked]
    completions = [output.outputs[0] for output in llm.generate(BATCH, params, use_tqdm=False)]  # type: ignore[arg-type]
    assert all(one.logprobs is None or len(one.logprobs) == len(one.token_ids) for one in completions)
    return [(list(one.token_ids), one.text, one.finish_reason, one.stop_reason) for one in completions]


def compare(
    llm: LLM, gammas: Iterable[int | str], asked: list[dict[str, Any]], right: list[Answer]
) -> tuple[dict[int | str, list[int]], list[Witness]]:
    """For every γ: which requests are answered otherwise than by plain decoding, and what happened meanwhile."""
    different, witnesses = {}, []
    for gamma in gammas:
        set_gate(llm, **gate(gamma))
        with watch(llm) as seen:
            given = answer(llm, asked)
        different[gamma] = [i for i, (one, other) in enumerate(zip(given, right, strict=True)) if one != other]
        witnesses.append(seen)
    return different, witnesses


def note(
    proof: Proof, configuration: str, format_name: str, right: list[Answer], different: dict, seen: list[Witness]
) -> None:
    proof.row(
        "greedy",
        configuration=configuration,
        γ=", ".join(map(str, different)),
        format=format_name,
        requests=len(right) * len(different),
        tokens=sum(len(tokens) for tokens, *_ in right) * len(different),
        accepted=round(sum(one.accepted for one in seen) / sum(one.drafted for one in seen), 3),
        differences=sum(map(len, different.values())),
    )


@pytest.mark.parametrize(
    "format_name", [pytest.param(f, marks=[] if f in NATIVE else pytest.mark.full) for f in FORMATS]
)
def test_every_format_and_draft_length(engine: Any, expected: Any, format_name: str, proof: Proof) -> None:
    """One batch in which neighbours ask for different things."""
    asked, right = expected(GREEDY)
    gammas = GAMMAS if format_name == "int8" else (1, 3, MAX, "random", "gate") if proof.full else (1, MAX)
    different, seen = compare(engine(format_name), gammas, asked, right)
    note(proof, "requests of all kinds in one batch", format_name, right, different, seen)
    assert not any(different.values()), different
    assert all(one.accepted for one in seen)
    assert all(one.rejected for one in seen)


@pytest.mark.parametrize("case", GREEDY, ids=lambda case: case.name)
@pytest.mark.parametrize("format_name", ["int8", pytest.param("int4", marks=pytest.mark.full)])
def test_everything_that_a_request_can_ask(
    engine: Any, expected: Any, case: Greedy, format_name: str, proof: Proof
) -> None:
    asked, right = expected((case,))
    gammas = (3, "random") if proof.full and format_name == "int8" else ("random",)
    different, seen = compare(engine(format_name), gammas, asked, right)
    note(proof, case.name, format_name, right, different, seen)
    assert not any(different.values()), different
    assert all(getattr(one, case.shows) for one in seen)


def test_the_policy_accepts_all_that_it_drafts_itself(engine: Any, expected: Any) -> None:
    asked, right = expected(GREEDY[:1])
    different, seen = compare(engine("bf16"), (3, MAX, "random"), asked, right)
    assert not any(different.values()), different
    assert all(one.accepted == one.drafted > len(BATCH) * NEW_TOKENS / 2 for one in seen)


@pytest.mark.parametrize("parameters", [{"min_p": 0.1}, {"logit_bias": {3: 1.0}}], ids=["min_p", "logit_bias"])
def test_what_vllm_refuses_with_speculation_is_refused_in_words(
    plain: LLM, engine: Any, parameters: dict[str, Any], proof: Proof
) -> None:
    asked = [{"temperature": 1.0} | parameters] * len(BATCH)
    assert answer(plain, asked)
    with pytest.raises(Exception, match=REFUSAL) as refusal:
        answer(engine("int8"), asked)
    proof.row("refused by vLLM", parameter=next(iter(parameters)), message=str(refusal.value))
