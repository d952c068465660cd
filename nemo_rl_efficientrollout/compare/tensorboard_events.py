"""TensorBoard event files, such as NeMo-RL's `logs/exp_001/tensorboard`."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .run import Run, collect

KIND = "TensorBoard events"
FRAME = 16  # bytes around each record: its length, and checksums of the length and of the record
LARGEST = 2**28  # bytes; a record that claims more has a damaged length
HPARAMS = "_hparams_/session_start_info"


def find(path: Path) -> list[Path]:
    """Folders of event files at or below `path`, outermost ones: NeMo-RL's settings lie in a folder within."""
    if path.is_file():
        return [path] if "tfevents" in path.name else []
    folders = {file.parent for file in path.rglob("*tfevents*") if file.is_file()}
    return sorted(folder for folder in folders if not folders & set(folder.parents))


def read(place: Path) -> Run:
    """Read all event files of a folder, or one file; the later of two files wins.

    Raises:
        UserError: TensorBoard is not installed, or a file is corrupt.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(f"{place} holds TensorBoard events, and their reader is not installed: pip install tensorboard")
    files = [place] if place.is_file() else [file for file in place.rglob("*tfevents*") if file.is_file()]
    from google.protobuf.message import DecodeError  # pyright: ignore

    rows: list[tuple[int, dict[str, Any]]] = []
    config: dict[str, Any] = {}
    for file in sorted(files, key=lambda file: (file.stat().st_mtime, file.name)):
        try:
            for step, tag, value in _values(file):
                if tag == HPARAMS:
                    config |= _settings(value.metadata.plugin_data.content)
                else:
                    rows.append((step, {tag: _number(value)}))
        except DecodeError:  # its checksum is right all the same
            raise UserError(
                f"{file} holds a record that is no event; copy it again from where it was written"
            ) from None
    return Run(_name(place), str(place), KIND, config, collect(rows))


def _values(file: Path) -> Iterator[tuple[int, str, Any]]:
    """Step, tag and value of everything in a file, checked against the file's checksums."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # pyright: ignore
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore

    read = 0
    for record in RawEventFileLoader(str(file)).Load():
        read += len(record) + FRAME
        event = Event.FromString(record)
        for value in event.summary.value:
            yield event.step, value.tag, value
    _refuse_corruption(file, read)


def _refuse_corruption(file: Path, read: int) -> None:
    """The loader stops alike at a damaged record and at one that a killed run left half written. Only this is fine."""
    with file.open("rb") as content:
        content.seek(read)
        rest = content.read()
    claimed = int.from_bytes(rest[:8], "little") if len(rest) >= 8 else 0
    if claimed > LARGEST or (len(rest) >= FRAME and claimed + FRAME <= len(rest)):
        raise UserError(f"{file} is corrupt from byte {read} on; copy it again from where it was written")


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
        return _scalar(value.tensor)
    return None  # figures and histograms


def _scalar(tensor: Any) -> float | None:
    """The number in a tensor; None if it holds another thing."""
    from tensorboard.util.tensor_util import make_ndarray  # pyright: ignore

    try:
        return float(make_ndarray(tensor).item())
    except (TypeError, ValueError):
        return None


def _settings(content: bytes) -> dict[str, Any]:
    """The settings that NeMo-RL logs as hyperparameters, by dotted key; numbers and switches are floats there."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore

    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind") or "", None) for key, value in found.items()}


def _name(place: Path) -> str:
    """`exp_001` for `exp_001/tensorboard`: NeMo-RL numbers the folder above."""
    folder = (place if place.is_dir() else place.parent).resolve()
    return folder.parent.name if folder.name == "tensorboard" else folder.name
