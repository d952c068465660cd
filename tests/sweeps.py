"""Sweeps for tests: the published one where it lies beside the project, and made-up ones with a known truth."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.prior import Prior
from nemo_rl_efficientrollout.gate.sweep import COLUMNS, MODES, read_sweep
from nemo_rl_efficientrollout.gate.terms import Kind, Terms
from nemo_rl_efficientrollout.gate.timing import Timing

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "a100_sweeps"
SWEEP_7B = PUBLISHED / "sweep_a100_tp1_qwen257b.csv"
CONSTANTS_7B = PUBLISHED / "model_constants_qwen257b_tp1.json"
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CONTEXTS = (256.0, 512.0, 1024.0, 2048.0, 4096.0)
LENGTHS = (3, 7, 11, 15)
NOISE = 0.02
QWEN_7B = {
    "model": "Qwen2.5-7B",
    "tp": 1,
    "quant_ratio": 0.25,
    "D": 3584,
    "D_ff": 18944,
    "L": 28,
    "n_heads": 28,
    "n_kv": 4,
    "d_h": 128,
    "V": 152064,
}


def truth(seed: int = 0) -> CostModel:
    """A machine unlike any hypothesis: every term off by a factor of its own."""
    terms = Terms()
    prior = Prior(plain_seconds=0.01, ridge_rows=90.0, draft_ratio=0.43, kv_per_ktoken=0.003, attention_per_ktoken=2e-4)
    theta = prior.mean(terms) * np.exp(np.random.default_rng(seed).normal(0.0, 0.2, terms.size))
    return CostModel(terms, theta, np.zeros((terms.size, terms.size)), NOISE)


def clean(model: CostModel) -> list[Timing]:
    """Every point of the published grid, as the model has it."""
    kinds: tuple[tuple[Kind, tuple[int, ...]], ...] = (("plain", (0,)), ("draft", LENGTHS), ("verify", LENGTHS))
    return [
        Timing(kind, batch, context, length, model.seconds(kind, batch, context, length))
        for kind, lengths in kinds
        for length in lengths
        for batch in BATCHES
        for context in CONTEXTS
    ]


def measured(model: CostModel, seed: int = 1, mislabelled: int = 8, noise: float = NOISE) -> list[Timing]:
    """The same with noise, and some rows that carry the time of another batch size."""
    chance = np.random.default_rng(seed)
    timings = [replace(t, seconds=t.seconds * float(np.exp(chance.normal(0.0, noise)))) for t in clean(model)]
    for i in chance.choice(len(timings), mislabelled, replace=False):
        timings[i] = replace(timings[i], seconds=timings[i].seconds * float(chance.choice([0.4, 0.6, 1.7, 2.5])))
    return timings


def write(path: Path, timings: list[Timing]) -> Path:
    """A sweep file."""
    modes = {kind: mode for mode, kind in MODES.items()}
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for t in timings:
            writer.writerow([t.batch, f"{t.context:g}", t.draft_length, modes[str(t.kind)], 1e3 * t.seconds])
    return path


def judged(folder: Path) -> Path:
    """The sweep on which goals are checked: the published one, or where that is missing one that is made up."""
    if SWEEP_7B.exists():
        return SWEEP_7B
    # Little noise: a made-up row that is wrong is wrong for the judge, too.
    return write(folder / "made_up.csv", measured(truth(), mislabelled=0, noise=0.005))


def judged_timings(folder: Path) -> list[Timing]:
    """Its rows."""
    return read_sweep(judged(folder))
