"""Two training runs side by side: what a plain and an accelerated run took, and whether they learned alike."""

from .comparison import Comparison, compare
from .run import Run
from .sources import read_run

__all__ = ["Comparison", "Run", "compare", "read_run"]
