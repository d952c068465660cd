"""Timings from a sweep: a CSV file with the median time of each kind of forward pass on a grid of (B, S, γ).

| column    | meaning                                                                              |
|-----------|--------------------------------------------------------------------------------------|
| batch     | B, requests                                                                          |
| seq       | S, tokens of context per request                                                     |
| gamma     | γ; 0 for plain decoding                                                              |
| mode      | target_decode (T_T), drafter_decode (T_D), target_verify (T_V), cycle (γ·T_D + T_V)  |
| median_ms | milliseconds                                                                         |
| model     | optional; one name in all rows                                                       |

Other columns are not looked at. The format is that of the sweeps published with arXiv 2606.18967, whose sweeper leaves
two kinds of rows behind that belong to no point: `target_decode_sd`, and rows of batch 0 logged before the first label.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from .table import Row, read_rows
from .terms import Kind
from .timing import Timing

COLUMNS = ("batch", "seq", "gamma", "mode", "median_ms")
MODES: dict[str, Kind] = {
    "target_decode": "plain",
    "drafter_decode": "draft",
    "target_verify": "verify",
    "cycle": "cycle",
}
IGNORED = ("target_decode_sd",)
MOST_REQUESTS, LONGEST_CONTEXT = 10**6, 1e8
"""What an engine can have."""
TIMES_MS = (1e-6, 1e9)
"""What a time can be: a nanosecond at least."""
WIDEST = 1e6
"""Longest over shortest time of one machine: beyond it a unit was mistaken."""
LEAST_ROWS = 6
"""What theory cannot supply: weights of target and drafter, ridge, and KV cost of plain decoding, draft, verify."""


def read_sweep(path: Path) -> list[Timing]:
    """Timings of a sweep file, in its order.

    Raises:
        UserError: one line with file, row and column: a missing column, a value that is none, an unknown mode, two
            models, or too few rows for a fit.
    """
    timings = []
    models: dict[str, str] = {}
    for row in read_rows(path, COLUMNS):
        timing = _timing(row)
        if timing is None:
            continue
        timings.append(timing)
        models.setdefault(row.values.get("model", "").strip(), row.where)
    if len(models) > 1:
        names = ", ".join(f"'{name}' ({where})" for name, where in models.items())
        raise UserError(f"{path.name} holds more than one model: {names}; fit each from a file of its own")
    _check_enough(path.name, timings)
    shortest, longest = (find(timings, key=lambda t: t.seconds) for find in (min, max))
    if longest.seconds > WIDEST * shortest.seconds:
        raise UserError(
            f"{longest.where}: median_ms is {1e3 * longest.seconds:g}, more than {WIDEST:g} times that of "
            f"{shortest.where}; mend the unit of one of them"
        )
    return timings


def model_name(path: Path) -> str:
    """What the column `model` of a sweep says; empty without one."""
    return next((row.values.get("model", "").strip() for row in read_rows(path, COLUMNS)), "")


def point(timing: Timing) -> str:
    """Where a timing lies, in the words of the file: `8,1024,3,target_verify`; `8,1024,3,step+5` drafted 5 besides."""
    step = f"step+{timing.drafted}"
    mode = next((mode for mode, kind in MODES.items() if kind == timing.kind), step)
    return f"{timing.batch},{timing.context:g},{timing.draft_length},{mode}"


def _timing(row: Row) -> Timing | None:
    """The timing of one row; None for a row that belongs to no point."""
    mode = row.text("mode")
    if mode in IGNORED:
        return None
    if mode not in MODES:
        raise row.wrong("mode", f"one of {', '.join(MODES)}{nearest(mode, MODES)}")
    batch = row.whole("batch", least=0, most=MOST_REQUESTS)
    if batch == 0:
        return None
    context, length = row.number("seq", least=0.0, below=LONGEST_CONTEXT), row.whole("gamma", least=0, most=1000)
    if (length == 0) != (mode == "target_decode"):
        raise row.wrong("gamma", "0 with mode target_decode" if length else f"at least 1 with mode {mode}")
    milliseconds = row.number("median_ms", *TIMES_MS)
    return Timing(MODES[mode], batch, context, length, milliseconds / 1e3, where=row.where)


def _check_enough(name: str, timings: Sequence[Timing]) -> None:
    kinds = Counter(timing.kind for timing in timings)
    if not kinds["plain"]:
        raise UserError(f"{name} has no row of plain decoding; add rows with mode target_decode and gamma 0")
    if not (kinds["draft"] and kinds["verify"]) and not kinds["cycle"]:
        missing = "drafter_decode" if kinds["verify"] else "target_verify" if kinds["draft"] else "speculation"
        raise UserError(
            f"{name} has no row of {missing}; add rows with modes drafter_decode and target_verify, or cycle"
        )
    if len(timings) < LEAST_ROWS:
        raise UserError(
            f"{name} has {len(timings)} usable rows, fewer than a fit's {LEAST_ROWS} parameters; measure more"
        )
