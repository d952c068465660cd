"""What a cluster can expect of drafted rollouts before anything ran on it: times, formats and memory, with ranges."""

from .forecast import Forecast, Spread, Way, forecast
from .scenario import Scenario

__all__ = ["Forecast", "Scenario", "Spread", "Way", "forecast"]
