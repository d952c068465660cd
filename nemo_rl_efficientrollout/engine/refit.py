"""Which weights the policy has and which ones its drafter was made from."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Refit:
    """Two integers that count refits. The drafter may draft only while they are equal.

    A refit that dies half-way leaves them different, so γ stays 0 until the next good one; there is no way back
    to `fresh` but a complete re-quantization.
    """

    policy_version: int = 0
    drafter_version: int = 0
    requantize_seconds: float = 0.0

    @property
    def fresh(self) -> bool:
        return self.drafter_version == self.policy_version

    def policy_changes(self) -> None:
        """Call before the first weight of the policy is touched."""
        self.policy_version += 1

    def rebuild(self, requantize: Callable[[], None]) -> None:
        """Re-quantize the drafter from the policy as it is now, then declare it fresh."""
        version = self.policy_version
        started = time.perf_counter()
        requantize()
        self.requantize_seconds = time.perf_counter() - started
        self.drafter_version = version
