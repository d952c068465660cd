"""Runs as reports: a report.json has everything, NeMo-RL's logs have some of what the same figures are made of."""

from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from ..errors import UserError
from ..files import read_json
from ..report import reading
from ..report.checked import Series
from .comparison import Comparison, compare, training_steps
from .derive import derived, generated, responses
from .metrics import ACCEPTANCE_LENGTH, ACCEPTANCE_RATE, GENERATION, MEAN_TOKENS, OWN, REWARD
from .run import Run
from .settings import EXPECTED
from .sources import read_run

FILE = "report.json"
MOST_RUNS = 8  # colours that can be told apart
SERIES = {
    "reward": (REWARD,),
    "rollout_seconds": (GENERATION,),
    "train_seconds": ("timing/train/policy_training",),
    # NeMo-RL's refit, with the waking of the engines that goes before it.
    "refit_seconds": ("timing/train/weight_sync", "timing/train/prepare_for_generation/total"),
    "response_mean": (MEAN_TOKENS,),
    "response_max": ("train/max_gen_tokens_per_sample",),
    "acceptance_rate": (ACCEPTANCE_RATE,),
    "acceptance_length": (ACCEPTANCE_LENGTH,),
    "speculating_fraction": (f"{OWN}/speculating_fraction",),
    "drafter_version_lag": (f"{OWN}/drafter_version_lag",),
    "requantize_seconds": ("refit/requantize_s",),
}
"""Series of a report, and the metrics that are taken for them: the first that the run has."""
SETTINGS = (*EXPECTED[:3], "policy.model_name", "policy.max_total_sequence_length", "grpo.num_", "grpo.max_num_")
"""Beginnings of the keys that a report shows of NeMo-RL's hundreds."""


@dataclass(frozen=True)
class Source:
    """A run that is asked for by its folder, or by `entity/project/run_id` at W&B."""

    place: str

    def report(self) -> reading.Run:
        """Everything that can be drawn of it. Raises UserError, which names the place."""
        file = Path(self.place) / FILE
        if not file.is_file():
            return as_report(read_run(self.place))
        content = read_json(file, "run the job again")
        try:
            return reading.read(content)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None


def against_first(sources: list[Source], skip: int) -> list[Comparison]:
    """Every other run against the first, labelled B, C…; the first `skip` steps of each are left out."""
    if len(sources) > MOST_RUNS:
        raise UserError(f"{len(sources)} runs are too many for one page; give at most {MOST_RUNS}")
    base, *others = (read_run(source.place) for source in sources)
    return [compare(base, run, skip, label) for run, label in zip(others, ascii_uppercase[1:], strict=False)]


def as_report(run: Run) -> reading.Run:
    """A log of NeMo-RL as a report: its metrics by step; timelines and cost models are not logged."""
    count = responses(run)
    whole = derived(run, count)
    numbers = training_steps(whole)
    if not numbers:
        raise UserError(
            f"{run.source} has no history of training: none of NeMo-RL's timing/train/… or train/… metrics; "
            "give a run with at least one finished step"
        )
    found: dict[str, Series] = {name: [None] * len(numbers) for name in reading.series_names()}
    for name, metrics in SERIES.items():
        known = next((whole.series[metric] for metric in metrics if metric in whole.series), {})
        found[name] = [known.get(step) for step in numbers]
    return reading.Run(
        name=run.name,
        settings={key: value for key, value in run.config.items() if key.startswith(SETTINGS)},
        model={},
        machine={"read from": run.kind, "source": run.source},
        steps=len(numbers),
        tokens=None if count is None else sum(generated(run, count).values()) or None,
        numbers=numbers,
        series=found,
    )
