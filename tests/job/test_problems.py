"""Problem files: both line forms, and one clear line for everything else."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.grpo_math.problems import Problem, read_problems, write_problems
from nemo_rl_efficientrollout.errors import UserError

GOOD = '{"problem": "1+1?", "answer": "2"}'


def read(tmp_path: Path, *lines: str | bytes) -> list[Problem]:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return read_problems(path)


def test_both_forms_and_blank_lines(tmp_path: Path) -> None:
    gsm8k = {"question": " How many? ", "answer": "10 - 3 = 7 each.\n#### 1,007"}
    problems = read(tmp_path, GOOD, "", '{"problem": "half?", "answer": 0.5}', json.dumps(gsm8k), "")
    assert [(p.text, p.answer) for p in problems] == [("1+1?", "2"), ("half?", "0.5"), ("How many?", "1007")]
    assert problems[2].source.endswith("problems.jsonl line 4")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b'{"problem": "\xff"}', "not UTF-8"),
        ("[1, 2]", "expected a JSON object"),
        ('{"answer": "2"}', "'problem' (or 'question') is missing"),
        ('{"problem": "1+1?"}', "'answer' is missing"),
        ('{"question": "1+1?"}', "'answer' is missing"),
        ('{"problem": "  ", "answer": "2"}', "'problem' must be a non-empty text"),
        ('{"problem": 5, "answer": "2"}', "'problem' must be a non-empty text"),
        ('{"problem": "\\ud800", "answer": "2"}', "surrogate"),
        ('{"problem": "1+1?", "answer": null}', "'answer' must be a non-empty text"),
        ('{"problem": "1+1?", "answer": true}', "'answer' must be a non-empty text"),
        ('{"problem": "1+1?", "answer": NaN}', "'answer' must be a non-empty text"),
        ('{"problem": "1+1?", "answer": "???"}', "no number or LaTeX formula"),
        ('{"question": "1+1?", "answer": "2"}', "no '####'"),
        ('{"question": "1+1?", "answer": "2 ####"}', "no number or LaTeX formula"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str | bytes, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, GOOD, line)
    message = str(caught.value)
    assert "problems.jsonl line 2" in message
    assert reason in message
    assert len(message.splitlines()) == 1


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        read_problems(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_problems(tmp_path)
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path, "", "  ")


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_give_problems_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:  # 60 random bytes hold no problem with an answer
        read_problems(path)
    assert "any.jsonl" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(
    row=st.dictionaries(
        st.sampled_from(["problem", "question", "answer", "other"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=9)
        | st.lists(st.integers(), max_size=2),
    )
)
def test_any_object_gives_a_problem_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, row: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "object.jsonl"
    path.write_text(json.dumps(row))
    text, answer = row.get("problem", row.get("question")), row.get("answer")
    try:
        (problem,) = read_problems(path)
    except UserError as error:
        message = str(error)
    else:
        assert isinstance(text, str)
        assert problem.text == text.strip()
        assert isinstance(answer, str | int | float)
        return
    assert "object.jsonl line 1" in message
    assert len(message.splitlines()) == 1


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, st.integers()), min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write_problems(path, [Problem(text, str(answer), "") for text, answer in pairs])
    assert [(p.text, p.answer) for p in read_problems(path)] == [(text.strip(), str(n)) for text, n in pairs]
