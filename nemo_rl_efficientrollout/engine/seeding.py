"""What the gate starts from: a calibration of this model on this hardware, else probes of this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.logger import init_logger

from ..config import DrafterSettings, Settings
from ..drafter.formats import format_named
from ..errors import UserError
from ..gate import AutoGate
from ..gate.calibration import check_matches, load
from ..gate.cost_model import CostModel
from ..gate.model_constants import ModelConstants, seeded
from ..gate.prior import Prior
from ..gate.terms import Padding
from .versions import installed_vllm

logger = init_logger("vllm.efficientrollout")

Probe = Callable[[int], Mapping[str, Any]]
"""Asks a worker for `Detection.to_dict()` up to a number of rows, or for `refused` with a reason."""

PROBE_ROWS_CPU, PROBE_ROWS_GPU = 32, 512
"""Largest GEMM probed: beyond it all is compute."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A cost model, or the shape of one that three plain steps will give a scale."""

    origin: str
    """Where it comes from, in one line."""
    model: CostModel | None = None
    prior: Prior | None = None
    padding: Padding | None = None

    calibration: str | None = None
    """The file that was asked for, used or not."""

    def gate(self, max_draft_length: int) -> AutoGate:
        """An automatic gate that starts from here."""
        return AutoGate(max_draft_length, self.model, self.padding, self.prior)


def find_seed(settings: Settings, config: VllmConfig, probe: Probe) -> Seed:
    """The calibration that the settings name, else what `probe(max_rows)` measures in a worker.

    Raises:
        UserError: the calibration cannot be used, and `strict` is set.
    """
    padding = Padding(captured_rows=tuple(sorted(config.compilation_config.cudagraph_capture_sizes or ())))
    file = settings.gate.calibration
    if file is not None:
        try:
            return _calibrated(file, config)
        except UserError as error:
            if settings.strict:
                raise
            logger.warning("%s. The gate starts from probes of this machine instead", error)
    answer = probe(_probe_rows(config, settings.draft_length.max))
    if "refused" in answer:
        logger.warning("No probes for the gate: %s. It starts from a generic guess", answer["refused"])
        return Seed("a generic guess", padding=padding, calibration=file)
    prior = _prior(settings, config, answer)
    origin = f"probes of {answer['hardware']} ({answer['choice']}): weights are free up to {_ridge(answer)} rows"
    logger.info("The gate starts from %s", origin)
    return Seed(origin, prior=prior, padding=padding, calibration=file)


def model_constants(config: VllmConfig, byte_ratio: float) -> ModelConstants:
    """The architecture of the engine's model, as the cost model wants it."""
    model, parallel = config.model_config, config.parallel_config.tensor_parallel_size
    hf = model.hf_text_config
    return ModelConstants.model_validate(
        {
            "D": model.get_hidden_size(),
            "D_ff": hf.intermediate_size,
            "L": hf.num_hidden_layers,
            "n_heads": hf.num_attention_heads,
            "n_kv": model.get_total_num_kv_heads(),
            "d_h": model.get_head_size(),
            "V": model.get_vocab_size(),
            "tp": parallel,
            "quant_ratio": byte_ratio,
        }
    )


def hardware() -> str:
    """Name of the GPU, or `cpu`."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _calibrated(path: str, config: VllmConfig) -> Seed:
    calibration = load(Path(path))
    mismatch = check_matches(
        calibration, gpu=hardware(), model=Path(config.model_config.model).name, vllm=installed_vllm() or ""
    )
    if mismatch is not None:
        raise UserError(f"{path}: {mismatch}; calibrate here with `efficientrollout calibrate`")
    return Seed(f"calibration {path}", model=calibration.cost_model(), calibration=path)


def _probe_rows(config: VllmConfig, max_draft_length: int) -> int:
    most = PROBE_ROWS_GPU if torch.cuda.is_available() else PROBE_ROWS_CPU
    return min(config.scheduler_config.max_num_seqs * (max_draft_length + 1), most)


def _prior(settings: Settings, config: VllmConfig, answer: Mapping[str, Any]) -> Prior:
    constants = model_constants(config, byte_ratio(settings.drafter))
    curve = [(point["rows"], point["seconds"]) for point in answer["curves"]["bf16"]]
    return seeded(constants, curve, answer["ridge_rows"]["bf16"])


def _ridge(answer: Mapping[str, Any]) -> str:
    ridge, most = answer["ridge_rows"]["bf16"], answer["curves"]["bf16"][-1]["rows"]
    return f"more than {most}" if ridge is None else f"{ridge:.0f}"


def byte_ratio(drafter: DrafterSettings) -> float:
    """Bytes of a drafter weight, scales included, over those of a BF16 one."""
    rows, columns = _TYPICAL_WEIGHT
    return 1.0 if drafter.simulate else format_named(drafter.format).bytes(rows, columns) / (2.0 * rows * columns)


_TYPICAL_WEIGHT = (4096, 4096)
