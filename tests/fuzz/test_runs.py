"""Records of training runs: a report to draw, two runs to compare, whatever they were recorded with."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nemo_rl_efficientrollout.compare import compare, read_run, wandb_offline
from nemo_rl_efficientrollout.compare.html import write_comparison
from nemo_rl_efficientrollout.compare.run import Run
from nemo_rl_efficientrollout.compare.table import show
from nemo_rl_efficientrollout.compare.to_json import to_json
from nemo_rl_efficientrollout.files import read_json
from nemo_rl_efficientrollout.report import write_report
from tests.proof import Proof
from tests.runs import CONFIG, history, write_tensorboard

from .documents import INSPECTED, REPORT, STEPS, as_lines
from .oracle import counted
from .wild import file_of, profile, spoiled

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def hold_against(a: Run, b: Run, out: Path) -> None:
    """Everything that the command does with two runs."""
    found = compare(a, b, 0)
    write_comparison(found, out)
    json.dumps(to_json(found), allow_nan=False, default=str)
    show(found, Console(file=io.StringIO(), width=120))


def test_reports(proof: Proof, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with counted("report.json, drawn", tmp_path, proof) as tally:

        @profile(proof, full=200, quick=12)
        @given(file_of(REPORT))
        def run(data: bytes) -> None:
            file.write_bytes(data)
            tally.judge(lambda: write_report(read_json(file, "give one"), tmp_path / "report.html"))

        run()


def test_the_jobs_own_runs(proof: Proof, tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    for folder in (left, right):
        folder.mkdir()
        (folder / "steps.jsonl").write_text(as_lines(STEPS))
        (folder / "report.json").write_text(json.dumps(REPORT))
    plain = read_run(str(right))
    with counted("steps.jsonl and report.json, compared", tmp_path, proof) as tally:

        @profile(proof, full=150, quick=8)
        @given(
            file_of(STEPS, as_lines), st.one_of(st.just(json.dumps(REPORT).encode()), file_of(REPORT)), st.booleans()
        )
        def run(steps: bytes, report: bytes, swapped: bool) -> None:
            (left / "steps.jsonl").write_bytes(steps)
            (left / "report.json").write_bytes(report)

            def read() -> None:
                runs = read_run(str(left)), plain
                hold_against(runs[swapped], runs[not swapped], tmp_path / "out.html")

            tally.judge(read)

        run()


def test_wandb_runs(proof: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What W&B's inspector says of a file: it is a process of its own, and too slow to be asked thousands of times."""
    file = tmp_path / "run.wandb"
    file.touch()
    facts: dict[str, Any] = {"name": "run", "run_id": "x", "config": CONFIG}
    said: list[str] = ["", ""]
    monkeypatch.setattr(wandb_offline, "_inspect", lambda file, *options: said[bool(options)])
    with counted("W&B run, as its inspector prints it", tmp_path, proof) as tally:

        @profile(proof, full=150, quick=30)
        @given(spoiled(INSPECTED, most=4), spoiled(facts))
        def run(records: Any, summary: Any) -> None:
            said[:] = as_lines(records), json.dumps(summary)

            def read() -> None:
                found = read_run(str(file))
                hold_against(found, found, tmp_path / "out.html")

            tally.judge(read)

        run()


def test_tensorboard_runs(proof: Proof, tmp_path: Path) -> None:
    folder = write_tensorboard(tmp_path / "right", history(4), CONFIG)
    (file,) = [path for path in folder.glob("*tfevents*") if path.is_file()]
    good = file.read_bytes()
    with counted("TensorBoard events", tmp_path, proof) as tally:

        @profile(proof, full=300, quick=30)
        @given(
            st.lists(st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=12)), max_size=3), st.integers(0, 3)
        )
        def run(changes: list[tuple[int, bytes]], cut: int) -> None:
            data = bytearray(good)
            for at, new in changes:
                data[at : at + len(new)] = new
            file.write_bytes(data[: len(data) // cut] if cut else data)

            def read() -> None:
                found = read_run(str(folder))
                hold_against(found, found, tmp_path / "out.html")

            tally.judge(read)

        run()


def test_tensorboard_values(proof: Proof, tmp_path: Path) -> None:
    """Whole files, with checksums that are right and content that is not."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.summary.writer.record_writer import RecordWriter  # pyright: ignore

    file = tmp_path / "events.out.tfevents.1"
    names = [name for _, row in history(1) for name in row]
    values = st.tuples(
        st.one_of(st.sampled_from(names), st.text(max_size=5)),
        st.floats(),
        st.sampled_from((0, 1, 2, 3, -1, 2**63 - 1)),
        st.one_of(st.none(), st.binary(max_size=20)),
    )
    with counted("TensorBoard events, well framed", tmp_path, proof) as tally:

        @profile(proof, full=250, quick=30)
        @given(st.lists(values, max_size=8))
        def run(rows: list[tuple[str, float, int, bytes | None]]) -> None:
            with file.open("wb") as stream:
                writer = RecordWriter(stream)
                for step, metrics in history(3):
                    for tag, value in metrics.items():
                        writer.write(event(Event, step, tag, value))
                for tag, value, step, raw in rows:
                    writer.write(event(Event, step, tag, value) if raw is None else raw)

            def read() -> None:
                found = read_run(str(tmp_path))
                hold_against(found, found, tmp_path / "out.html")

            tally.judge(read)

        run()


def event(kind: Any, step: int, tag: str, value: float) -> bytes:
    """One scalar, as a record."""
    made = kind(step=step)
    added = made.summary.value.add(tag=tag)
    if value > 1e38:
        added.tensor.CopyFrom(added.tensor.__class__(dtype=1, float_val=[1.0, 2.0]))
        added.metadata.plugin_data.plugin_name = "scalars"
    else:
        added.simple_value = value
    return made.SerializeToString()
