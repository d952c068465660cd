"""What the memory-bound detector finds on this machine: bandwidth, kernels, GEMM time over rows, and the ridge.

The ridge is the number of rows from which weights stop being free: how many requests times γ + 1 a verification may
hold before it costs more than a plain step. It differs by precision, and a little by shape.
"""

import sys
from typing import Any

from ..model import SHAPES
from ..record import Progress, Record, at_least, check_writable, new_parser
from .engines import names_list
from .shapes import CONFIGS, TINY

COLUMNS = ("shape", "precision", "kernel", "GB/s", "ridge rows", "rows", "ms", "GB/s of weights")
SHOWN = (1, 8, 32, 64, 128, 256, 512, 1024)
"""Rows in the table; the record has all."""
BYTES = {"bf16": 2.0, "fp8": 1.0}


def main(arguments: list[str] | None = None) -> int:
    """Probe, print, write."""
    parser = new_parser("gpu.probe", (__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", type=names_list(tuple(CONFIGS)), default=tuple(CONFIGS), help="default: all three")
    parser.add_argument("--max-rows", type=at_least(1), default=1024, help="largest GEMM; default: 1024")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape; default: 20")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: the GPU, if there is one")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if not options.seconds > 0:
        parser.error(f"argument --seconds: {options.seconds:g} is not above 0")
    if options.quick:
        options.shapes, options.max_rows, options.seconds = (TINY,), 16, 1.0
    from nemo_rl_efficientrollout.errors import UserError

    progress = Progress(options.quiet)
    names = ("shapes", "max_rows", "seconds", "device", "quick")
    record = Record(
        "gpu.probe",
        "GEMM time of a decode step over its rows",
        {name: getattr(options, name) for name in names},
        COLUMNS,
    )
    try:
        for shape in options.shapes:
            with progress.phase(f"probing {shape} for about {options.seconds:g} s"):
                _probe(record, shape, options)
    except UserError as error:
        parser.error(str(error))
    record.notes.append("GB/s: of reading memory; GB/s of weights: of the GEMMs' weights alone; ridge: see the source")
    record.finish(options)
    return 0


def _probe(record: Record, shape: str, options: Any) -> None:
    from nemo_rl_efficientrollout.gate.detector import detect, layer_shapes

    layers = layer_shapes(_config(shape))
    weights = sum(layer.count * layer.weights for layer in layers)
    detection = detect(layers, options.max_rows, options.device, options.seconds)
    record.results.append({"shape": shape, "weights": weights} | detection.to_dict())
    record.notes.append(f"{shape}: {detection.hardware}, {detection.choice}")
    for tried in detection.kernels:
        record.notes.append(f"{shape}: {tried.kernel} ({tried.precision}): {tried.why_not or 'measured'}")
    chosen = {tried.precision: tried.kernel for tried in detection.kernels if tried.why_not is None}
    for precision, curve in detection.curves.items():
        ridge = detection.ridge_rows[precision]
        for rows, seconds in curve:
            if rows not in SHOWN and rows != curve[-1][0]:
                continue
            read = BYTES.get(precision, 2.0) * weights / seconds / 1e9
            record.rows.append(
                (
                    shape,
                    precision,
                    chosen[precision],
                    f"{detection.bandwidth_bytes_per_s / 1e9:.0f}",
                    f"> {curve[-1][0]}" if ridge is None else f"{ridge:.0f}",
                    str(rows),
                    f"{1e3 * seconds:.3f}",
                    f"{read:.0f}",
                )
            )


def _config(shape: str) -> dict[str, Any]:
    if shape != TINY:
        return CONFIGS[shape]
    tiny = SHAPES[TINY]
    return {
        "hidden_size": tiny.hidden,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "intermediate_size": tiny.intermediate,
        "vocab_size": tiny.vocabulary,
    }


if __name__ == "__main__":
    sys.exit(main())
