"""The readers of files under atheris, which keeps what reaches new lines of our code and changes it further.

    python -m tests.fuzz.guided [libFuzzer's options, such as -max_total_time=600]

atheris is in no lock: `pip install atheris` where it has a wheel. Stops at the first input that is neither accepted nor
refused well, and writes it to the current folder, as libFuzzer does.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nemo_rl_efficientrollout"]):  # pyright: ignore[reportAttributeAccessIssue]
    from nemo_rl_efficientrollout import read_settings
    from nemo_rl_efficientrollout.compare import read_run
    from nemo_rl_efficientrollout.config import parse_overrides
    from nemo_rl_efficientrollout.drafter.shapes import model_shape
    from nemo_rl_efficientrollout.files import read_json
    from nemo_rl_efficientrollout.gate.calibration import load
    from nemo_rl_efficientrollout.gate.model_constants import read_model_constants
    from nemo_rl_efficientrollout.gate.sweep import read_sweep
    from nemo_rl_efficientrollout.report.reading import read

from .documents import CONSTANTS, MODEL, REPORT, STEPS, SWEEP, as_csv, as_lines, calibration
from .oracle import Tally

READERS = (
    load,
    read_model_constants,
    read_sweep,
    lambda file: model_shape(read_json(file, "give one"), 2),
    lambda file: read_run(str(file)),
    lambda file: read(read_json(file, "give one")),
    lambda file: read_settings(parse_overrides(file.read_text(errors="replace").split())),
)
SEEDS = (
    *(json.dumps(calibration()), json.dumps(CONSTANTS), as_csv(SWEEP), json.dumps(MODEL), as_lines(STEPS)),
    *(json.dumps(REPORT), "gate.mode=fixed gate.draft_length=3 drafter.format=int4"),
)
"""A right file for each reader; the first byte of an input says which."""


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, corpus = Path(place) / "run", Path(place) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        for number, text in enumerate(SEEDS):
            (corpus / str(number)).write_bytes(bytes([number]) + text.encode())
        tally, file = Tally("guided", folder), folder / "steps.jsonl"

        def one_input(data: bytes) -> None:
            file.write_bytes(data[1:])
            reader = READERS[(data[0] if data else 0) % len(READERS)]
            tally.judge(lambda: reader(file))

        atheris.Setup([sys.argv[0], "-max_len=100000", *sys.argv[1:], str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
