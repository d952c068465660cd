"""Reading sweeps: what counts, what is left out, and one line for every mistake."""

from pathlib import Path

import pytest

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.sweep import model_name, point, read_sweep
from tests import sweeps

HEADER = "batch,seq,gamma,mode,median_ms\n"
ROWS = [
    "1,256,0,target_decode,9.5",
    "8,256,0,target_decode,10",
    "1,256,3,drafter_decode,4.4",
    "8,256,3,drafter_decode,4.8",
    "1,256,3,target_verify,9.7",
    "8,256,3,target_verify,11.2",
]


def file(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "s.csv"
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def test_rows_become_timings_in_seconds_with_their_place(tmp_path: Path) -> None:
    timings = read_sweep(file(tmp_path, ROWS))
    assert [t.kind for t in timings] == ["plain", "plain", "draft", "draft", "verify", "verify"]
    third = timings[2]
    assert (third.batch, third.context, third.draft_length, third.where) == (1, 256.0, 3, "s.csv:4")
    assert third.seconds == pytest.approx(4.4e-3)
    assert point(third) == "1,256,3,drafter_decode"


def test_rows_of_no_point_are_left_out(tmp_path: Path) -> None:
    junk = ["0,0,0,target_decode,9.5", "1,256,3,target_decode_sd,9.8", "0,0,3,target_verify,nan"]
    assert len(read_sweep(file(tmp_path, junk + ROWS))) == len(ROWS)


def test_other_columns_order_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    rows = [",".join(reversed(["7B", *row.split(",")])) for row in ROWS]
    path = file(tmp_path, rows, "\ufeffmedian_ms, mode,gamma,seq,batch,model\n")
    assert read_sweep(path)[5].seconds == pytest.approx(11.2e-3)
    assert model_name(path) == "7B"
    assert model_name(file(tmp_path, ROWS)) == ""


def test_whole_cycles_are_enough_beside_plain_decoding(tmp_path: Path) -> None:
    cycles = [f"{batch},256,{length},cycle,{20 + length}" for batch in (1, 8) for length in (3, 7)]
    assert [t.kind for t in read_sweep(file(tmp_path, ROWS[:2] + cycles))] == ["plain"] * 2 + ["cycle"] * 4


def test_the_published_file_has_no_junk_left(tmp_path: Path) -> None:
    timings = sweeps.judged_timings(tmp_path)
    counts = {kind: sum(t.kind == kind for t in timings) for kind in ("plain", "draft", "verify")}
    assert counts["plain"] == 45
    assert counts["draft"] == 180
    assert counts["verify"] in (178, 180)  # two points of the published file are missing


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: ["1,256,0,target_decode,nan", *rows], ["s.csv:2", "median_ms", "'nan'"]),
        (lambda rows: ["1,256,0,target_decode,inf", *rows], ["s.csv:2", "median_ms", "'inf'"]),
        (lambda rows: [*rows, "1,256,0,target_decode,fast"], ["s.csv:8", "median_ms", "'fast'"]),
        (lambda rows: ["1,256,0,target_decode,-1", *rows], ["s.csv:2", "median_ms", "'-1'"]),
        (lambda rows: ["1,256,0,target_decode,0", *rows], ["s.csv:2", "median_ms", "'0'"]),
        (lambda rows: ["1,256,0,target_decode,", *rows], ["s.csv:2", "median_ms", "empty"]),
        (lambda rows: ["1,256,-3,target_verify,9", *rows], ["s.csv:2", "gamma", "'-3'"]),
        (lambda rows: ["1,256,0,target_verify,9", *rows], ["s.csv:2", "gamma", "at least 1"]),
        (lambda rows: ["1,256,3,target_decode,9", *rows], ["s.csv:2", "gamma", "0 with mode"]),
        (lambda rows: ["1.5,256,0,target_decode,9", *rows], ["s.csv:2", "batch", "whole number"]),
        (lambda rows: ["-1,256,0,target_decode,9", *rows], ["s.csv:2", "batch", "'-1'"]),
        (lambda rows: ["1,-256,0,target_decode,9", *rows], ["s.csv:2", "seq", "'-256'"]),
        (lambda rows: ["1,256,0,target_decod,9", *rows], ["s.csv:2", "mode", "did you mean 'target_decode'"]),
        (lambda rows: ["1,256,0,target_decode", *rows], ["s.csv:2", "5 values"]),
        (lambda rows: ["1,256,0,target_decode,9,9", *rows], ["s.csv:2", "5 values"]),
        (lambda rows: ["1,256,0,target_decode,1e8", *rows], ["s.csv:2", "median_ms", "s.csv:5", "unit"]),
        (lambda rows: ["1e7,256,0,target_decode,9", *rows], ["s.csv:2", "batch", "1000000"]),
        (lambda rows: ["1,1e9,0,target_decode,9", *rows], ["s.csv:2", "seq", "below 1e+08"]),
        (lambda rows: ["1,256,1001,target_verify,9", *rows], ["s.csv:2", "gamma", "1000"]),
        (lambda rows: rows[2:] * 2, ["no row of plain decoding", "target_decode"]),
        (lambda rows: rows[:2] * 3, ["no row of speculation", "drafter_decode", "cycle"]),
        (lambda rows: rows[:4] * 2, ["no row of target_verify"]),
        (lambda rows: (rows[:2] + rows[4:]) * 2, ["no row of drafter_decode"]),
        (lambda rows: rows[:5], ["5 usable rows", "6 parameters"]),
        (lambda rows: [], ["no row of plain decoding"]),
    ],
)
def test_mistakes_in_rows_are_one_line(tmp_path: Path, change, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_sweep(file(tmp_path, change(ROWS)))
    assert all(part in str(caught.value) for part in expected), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ["empty", "batch,seq"]),
        (b"batch,seq,gama,mode,median_ms\n", ["s.csv:1", "'gamma'", "did you mean 'gama'"]),
        (b"batch,seq,gamma,mode,median_ms,seq\n", ["s.csv:1", "two columns", "'seq'"]),
        (b"batch,seq,gamma,mode,median_ms," + b"x," * 200_000 + b"\n", ["two columns", "'x'"]),  # in no time
        (HEADER.encode() + b"1,256,0," + b"x" * 100_000 + b",9\n", ["s.csv:2", "mode is 'xxx"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        (HEADER.encode() + b"1,256,0,target_\x00decode,9\n", ["s.csv:2"]),
        (
            b"model,batch,seq,gamma,mode,median_ms\na,1,1,0,target_decode,1\nb,1,1,0,target_decode,1\n",
            ["more than one model", "'a'", "'b'", "s.csv:3"],
        ),
    ],
)
def test_mistakes_in_files_are_one_line(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sweep(tmp_path / "s.csv")
    assert all(part in str(caught.value) for part in expected), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_sweep(tmp_path / name)
