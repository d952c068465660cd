"""Deliberate faults, one file per part of the package."""

from tests.mutants.fault import Fault

from . import drafting, formats, gate, parcels, refit, sampling, scheduling

FAULTS: dict[str, Fault] = {}
for part in (sampling, drafting, scheduling, refit, parcels, formats, gate):
    assert not FAULTS.keys() & part.faults.keys()
    FAULTS |= part.faults
