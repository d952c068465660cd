"""The real NeMo-RL, where its source is on the path; tests are skipped with the reason where it is not."""

import importlib
import sys
import typing

import pytest


def require(*modules: str) -> None:
    """Skip the calling module unless NeMo-RL and the parts of it that it needs can be imported."""
    if sys.version_info < (3, 12):
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict  # what pydantic asks for; NeMo-RL itself runs on 3.13
    for name in ("nemo_rl", *modules):
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported ({error}): make test-nemo-rl", allow_module_level=True)
