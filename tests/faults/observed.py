"""What a fault led to, as it was seen, and whether that is what was promised."""

import re
from collections.abc import Callable
from typing import Any

from tests.proof import Proof


def note(proof: Proof, fault: str, where: str, expected: str, outcome: str, survived: bool) -> None:
    """Add the row, then judge: `outcome` is what was seen, without folders of this machine."""
    shown = re.sub(r"(/[\w.+-]+)+/(?=[\w.+-])", "", " ".join(outcome.split()))
    proof.row("faults", fault=fault, where=where, expected=expected, outcome=shown[:300], survived=survived)
    assert survived, outcome


def error_of(call: Callable[[], Any]) -> str:
    """`Type: message` of what `call` raises; empty if nothing."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 the error is what is looked for
        return f"{type(error).__name__}: {error}"
    return ""
