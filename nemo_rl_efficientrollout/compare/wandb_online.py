"""A run at W&B, by `entity/project/run_id`."""

import importlib.util

from ..errors import UserError
from .run import Run, collect, flat

KIND = "W&B run"
TIMEOUT = 30  # seconds


def read(source: str) -> Run:
    """Read every step of a run at W&B. Raises UserError: no W&B here, no key, no network, or no such run."""
    wanted = f"{source} is no folder here and was taken for a run at W&B"
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"{wanted}, but wandb is not installed: pip install 'wandb>=0.31'")
    import wandb

    try:
        run = wandb.Api(timeout=TIMEOUT).run(source)
        # `history()` is a sample of the steps; `scan_history()` gives all of them.
        rows = [dict(row) for row in run.scan_history()]
        config, name = dict(run.config), run.name or run.id
    # A run that does not exist is a ValueError in some versions.
    except (wandb.Error, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{wanted}, but: {said}; check the name, the network and WANDB_API_KEY") from None
    return Run(name, source, KIND, flat(config), collect((int(row.get("_step", 0)), row) for row in rows))
