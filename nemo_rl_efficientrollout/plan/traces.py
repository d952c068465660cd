"""Response lengths from files and runs. Files are streamed: only a histogram is kept, however many rows there are."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ..compare import read_run
from ..compare.metrics import MEAN_TOKENS
from ..errors import UserError, nearest
from .lengths import LONGEST, Lengths, log_normal
from .presets import PRESETS, preset

Progress = Callable[[str, float], None]
"""What is read, and the share of it that was."""

KEYS = (
    *("response_length", "response_lengths", "generation_length", "generation_lengths", "response_tokens"),
    *("completion_tokens", "output_tokens", "num_tokens", "tokens", "length"),
)
"""Looked for in this order where no key is asked for."""
MASK = "token_loss_mask"
"""In NeMo-RL's train_data_step*.jsonl: 1 for every token that the policy generated, in all turns together."""
TRAIN_DATA = "train_data_step*.jsonl"
LONGEST_TOKENS = "train/max_gen_tokens_per_sample"
SYNTHETIC = re.compile(r"(\d+):(\d+)")
LONGEST_ROW = 2**26
"""Bytes. A file without line ends must not be read into memory whole."""
_ROWS_BETWEEN = 2**13
_ROW_FILES = {".jsonl", ".ndjson", ".json", ".csv", ".txt"}


def read_lengths(source: str, key: str | None, responses: int, progress: Progress) -> Lengths:
    """Lengths from a preset, MEAN:LONGEST, a file with a row for each response, or a run's metrics.

    Args:
        source: the name of a preset; two numbers of tokens; a `.jsonl` or `.csv` file; a folder with NeMo-RL's
            train_data_step*.jsonl; or what `compare` reads: a W&B, TensorBoard or `steps.jsonl` run.
        key: of the length in each row; by default the first of `KEYS` that is there.
        responses: of one step, where only their mean and longest are known.
        progress: told now and then.

    Raises:
        UserError: one line, with file and row.
    """
    if source in PRESETS:
        return preset(source)
    if synthetic := SYNTHETIC.fullmatch(source):
        mean, longest = map(int, synthetic.groups())
        origin = f"a guess: log-normal with mean {mean}, longest of {responses} responses {longest}"
        return log_normal(source, origin, mean, longest, responses)
    path = Path(source)
    if path.is_dir() and (files := sorted(path.rglob(TRAIN_DATA), key=_natural)):
        return _of_rows(path.resolve().name, files, key, progress)
    if path.is_file() and path.suffix in _ROW_FILES and path.name != "steps.jsonl":
        return _of_rows(path.name, [path], key, progress)
    if not path.exists() and source.count("/") != 2:
        known = ", ".join(PRESETS)
        raise UserError(
            f"lengths '{source}': no such file or preset{nearest(source, PRESETS)}; give a file, a run,"
            f" MEAN:LONGEST in tokens, or one of {known}"
        )
    return _of_run(source, responses)


def _of_rows(name: str, files: list[Path], key: str | None, progress: Progress) -> Lengths:
    histogram = [0] * (LONGEST + 1)  # as fast as a dict, and 8 MiB whatever comes
    for file in files:
        rows = _csv(file, key, progress) if file.suffix == ".csv" else _jsonl(file, key, progress)
        for number, value in rows:
            for length in value if isinstance(value, list) else (value,):
                whole = type(length) is int or (type(length) is float and length.is_integer())
                if not whole or not 1 <= length <= LONGEST:
                    raise UserError(
                        f"{file}:{number}: a response of {_short(length)} tokens, expected a whole number from 1 to"
                        f" {LONGEST}; correct or remove the row"
                    )
                histogram[int(length)] += 1
    total = sum(histogram)
    if not total:
        raise UserError(f"{files[0]} holds no response; give a file with a row for each")
    where = f"{len(files)} files" if len(files) > 1 else files[0].name
    return Lengths.of(name, f"read: {total:,} responses of {where}", histogram)


def _jsonl(file: Path, key: str | None, progress: Progress) -> Iterator[tuple[int, Any]]:
    """Row number and length or lengths."""
    for number, line in _lines(file, progress):
        if line.isdigit():  # a third of the time, where that is all
            yield number, int(line)
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}:{number} is not valid JSON ({error}); correct or remove the row") from None
        if isinstance(row, dict):
            key = key or next((name for name in (*KEYS, MASK) if name in row), None)
            if key is None or key not in row:
                wanted = f"'{key}'{nearest(key, row)}" if key else "length"
                known = ", ".join(list(row)[:8]) or "none"
                raise UserError(f"{file}:{number} has no {wanted}; its keys: {known}; name one with --length-key")
            row = sum(row[key]) if key == MASK and _numbers(row[key]) else row[key]
        yield number, row


def _csv(file: Path, key: str | None, progress: Progress) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(line.decode(errors="replace") for _, line in _lines(file, progress))
    names = [name.strip() for name in next(reader, [])]
    column = key or (names[0] if len(names) == 1 else next((name for name in KEYS if name in names), None))
    if column is None or column not in names:
        wanted = f"'{column}'{nearest(column, names)}" if column else "of lengths"
        raise UserError(
            f"{file}:1 has no column {wanted}; its columns: {', '.join(names) or 'none'}; name one with --length-key"
        )
    index = names.index(column)
    for row in reader:
        if not row:
            continue
        text = row[index].strip() if index < len(row) else ""
        try:
            yield reader.line_num, float(text)
        except ValueError:
            yield reader.line_num, text


def _lines(file: Path, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Rows that are not blank, with their numbers from 1 on."""
    try:
        size = max(file.stat().st_size, 1)
        with file.open("rb") as content:
            for number, line in enumerate(iter(lambda: content.readline(LONGEST_ROW), b""), 1):
                if number % _ROWS_BETWEEN == 0:
                    progress(file.name, content.tell() / size)
                if len(line) == LONGEST_ROW:
                    raise UserError(f"{file}:{number} is longer than {LONGEST_ROW >> 20} MiB; give a row per response")
                if row := line.strip():
                    yield number, row
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a file of lengths") from None


def _of_run(source: str, responses: int) -> Lengths:
    run = read_run(source)
    means, longest = (run.series.get(name, {}) for name in (MEAN_TOKENS, LONGEST_TOKENS))
    steps = sorted(means.keys() & longest.keys())
    if not steps:
        raise UserError(f"{source} ({run.kind}) logs no {MEAN_TOKENS} and {LONGEST_TOKENS}; give a file of lengths")
    mean, most = median(means[step] for step in steps), median(longest[step] for step in steps)
    origin = (
        f"fitted: log-normal with mean {mean:.0f} and longest {most:.0f} of {responses} responses, the medians over"
        f" {len(steps)} steps of a {run.kind}, which logs no more of them"
    )
    return log_normal(run.name, origin, mean, most, responses)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)


def _natural(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.name)
    return int(digits[0]) if digits else 0, str(path)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
