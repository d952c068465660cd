"""Files and texts of users: bounded, and refused in one short line that a terminal shows as it is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.errors import LONGEST_LINE, UserError, nearest, one_line, shown
from nemo_rl_efficientrollout.files import (
    DEEPEST,
    MOST_DIGITS,
    check_place,
    is_deeper,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    write_whole,
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain γ", "plain γ"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("half \ud800", "half \\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_a_message_is_one_printable_line(text: str, line: str) -> None:
    assert one_line(text) == line == str(UserError(text))


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    text = str(UserError(f"file: {'x' * 10**6}; do this"))
    assert text.startswith("file: x")
    assert text.endswith("x; do this")
    assert len(text) <= LONGEST_LINE
    assert len(one_line("\n" * 10**6)) <= LONGEST_LINE


@pytest.mark.parametrize("value", [[10**5000], ["x" * 10**6], list(range(10**5))], ids=range(3))
def test_values_are_quoted_in_short(value: Any) -> None:
    assert len(shown(value)) < 250


def test_lists_in_lists_are_quoted_in_short() -> None:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    assert shown(value) == "list too large to show"
    assert shown(10**5000) == "int too large to show"


def test_only_words_are_compared() -> None:
    assert nearest("gte", ["gate", 5, None]) == " (did you mean 'gate'?)"
    assert nearest("x" * 10**6, ["x"]) == ""


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "9" * (MOST_DIGITS + 1), "\ud800"], ids=range(4))
def test_json_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="^here is not valid JSON.*; mend it$"):
        parse_json(text, "here", "mend it")


def test_depth_and_digits_have_a_limit() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(deep, "here", "mend it") is not None
    with pytest.raises(UserError, match=f"more than {DEEPEST} levels"):
        parse_json(f'{{"a": {deep}}}', "here", "mend it")
    assert float(parse_json("9" * MOST_DIGITS, "here", "mend it")) > 1e299
    assert not is_deeper(5, 0)
    assert is_deeper([5], 0)


def test_a_file_has_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 9)
    assert read_bytes(file, "mend it", most=9) == b"x" * 9
    with pytest.raises(UserError, match="has more than 0 MiB; mend it"):
        read_bytes(file, "mend it", most=8)
    with pytest.raises(UserError, match="/dev/zero has more than 1 MiB"):
        read_bytes(Path("/dev/zero"), "mend it", most=2**20)


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "nul\x00", "half \ud800", ""], ids=range(5))
def test_paths_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="^cannot read .*; mend it$"):
        read_text(tmp_path / name, "mend it")


def test_text_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, "mend it") == {"a": 1}
    file.write_bytes(json.dumps({"a": 1}).encode("utf-16"))
    with pytest.raises(UserError, match="not text in UTF-8; mend it"):
        read_json(file, "mend it")


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"data")
    assert os.read(reader, 9) == b"data"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", ".", "no/such/file", "x" * 5000 + "/y", "nul\x00/y"], ids=range(5))
def test_places_where_nothing_can_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^cannot write "):
        check_place(Path(name))
    check_place(Path("new"))
