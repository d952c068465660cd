"""An engine with a drafter, step by step: γ pinned, or left to the gate."""

from typing import Any

from .measure import Decoder

WARM_UP = 4
"""Steps dropped after a change of mode: one to change over, the rest for caches."""


class DraftingDecoder(Decoder):
    """The engine with the drafter."""

    _calibration: str | None = None

    def pin(self, length: int) -> None:
        """γ from the next step on."""
        self.llm.collective_rpc("efficientrollout_set_gate", args=({"mode": "fixed", "draft_length": length},))

    def leave_to_gate(self, calibration: str | None = None) -> None:
        """The automatic gate, with all that it learned in earlier blocks: a rollout is longer than a block."""
        self._calibration = calibration or self._calibration
        gate = {"mode": "auto"} | ({"calibration": self._calibration} if self._calibration else {})
        self.llm.collective_rpc("efficientrollout_set_gate", args=(gate,))

    def stats(self) -> dict[str, Any]:
        return self.llm.collective_rpc("efficientrollout_stats")[0]

    def timeline(self) -> dict[str, list[float]]:
        """Steps since the last call."""
        return self.llm.collective_rpc("efficientrollout_timeline")[0]

    def split(self, requests: int, length: int, pairs: int) -> tuple[list[float], list[float]]:
        """Seconds of steps that only draft γ = `length`, and of steps that only verify it."""
        self.pin(0)
        self.start(requests, longest=self.room)
        drafting, verifying = [], []
        for pair in range(-WARM_UP // 2, pairs):
            self.pin(length)
            drafts = self.step().seconds
            self.pin(0)
            verifies = self.step().seconds
            if pair >= 0:
                drafting.append(drafts)
                verifying.append(verifies)
        self.stop()
        return drafting, verifying
