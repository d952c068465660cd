"""1 for a right answer, 0 for a wrong one, judged by math-verify."""

from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_ANSWER_IN_RESPONSE = (
    # Only an announced answer counts: \boxed{}, $...$ or "the answer is 42"; a number in passing does not.
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),
    ExprExtractionConfig(try_extract_without_anchor=False),
)


def read_answer(answer: str) -> list[Any]:
    """The given answer as math-verify's candidates: formulas and, as a last resort, text."""
    return parse(answer if "$" in answer or "\\boxed" in answer else f"${answer}$")


def is_mathematics(answer: str) -> bool:
    """Whether math-verify found a number or a formula in it."""
    return any(not isinstance(candidate, str) for candidate in read_answer(answer))


def reward(response: str, answer: str) -> float:
    """1.0 if `response` announces an answer that equals `answer`, else 0.0."""
    found = parse(response, extraction_config=_ANSWER_IN_RESPONSE, extraction_mode="first_match")
    return float(verify(read_answer(answer), found))
