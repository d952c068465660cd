"""Which weights the policy has, which ones its drafter was made from, and why the two differ if they do."""

from dataclasses import dataclass


@dataclass(slots=True)
class Refit:
    """Two integers that count refits. The drafter may draft only while they are equal, or while it is kept on purpose.

    | state    | meaning                                                   | leaves it when                           |
    |----------|-----------------------------------------------------------|------------------------------------------|
    | fresh    | the drafter was made from the policy's present weights    | weights change, or the engine sleeps     |
    | changing | weights arrive                                            | the refit ends, well or not              |
    | behind   | a refit failed, or weights changed in an unknown way      | a complete re-quantization, nothing else |
    | kept     | an older drafter still is as good as measured, and drafts | weights change                           |
    """

    policy_version: int = 0
    drafter_version: int = -1
    problem: str = "the drafter was not filled yet"
    """Why the drafter must not draft; empty if it may."""
    requantize_seconds: float = 0.0
    """By which making the drafter prolonged the last refit."""

    @property
    def may_draft(self) -> bool:
        return not self.problem

    def begin(self) -> int:
        """The policy's weights start to change; returns the version that they will be."""
        self.policy_version += 1
        self.problem = f"policy version {self.policy_version} is arriving"
        return self.policy_version

    def fail(self, reason: str) -> None:
        """The drafter cannot be made from what arrived."""
        self.problem = f"policy version {self.policy_version}: {reason}"

    def sleep(self) -> None:
        """The drafter's memory was given back."""
        self.drafter_version = -1
        self.problem = "the engine sleeps"

    def succeed(self, seconds: float) -> None:
        """The whole drafter was made from the policy as it is now."""
        self.drafter_version = self.policy_version
        self.requantize_seconds = seconds
        self.problem = ""

    def keep(self) -> None:
        """The drafter stays as it is although the policy moved on: its drafts were accepted as before."""
        self.problem = ""
