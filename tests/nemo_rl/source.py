"""NeMo-RL's own source, and what of Megatron it imports that no CPU has. Importing this imports neither.

`NEMO_RL_SOURCE` names a checkout; without it NeMo-RL must be importable.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
import typing
from typing import Any

import pytest

NEEDED = ("nemo_rl", "ray", "hydra", "tensordict", "tensorboard")
MISSING_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def require_nemo_rl() -> None:
    """Make `import nemo_rl` work in this process, or skip the module that asks."""
    reason = _find_nemo_rl()
    if reason:
        pytest.skip(reason, allow_module_level=True)


def require(*modules: str) -> None:
    """The same, and for parts of it that need further packages."""
    require_nemo_rl()
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported ({error}): make test-nemo-rl", allow_module_level=True)


def _find_nemo_rl() -> str:
    """Why NeMo-RL cannot be had; empty if it can."""
    source = os.environ.get("NEMO_RL_SOURCE")
    if source and source not in sys.path:
        sys.path.insert(0, source)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return f"no NeMo-RL: {', '.join(absent)} not found"
    if sys.version_info < (3, 12):
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict  # whose fields pydantic can check on Python 3.11
    try:
        importlib.import_module("nemo_rl.models.policy.lm_policy")
    except (ImportError, AssertionError) as error:  # its assertion is on the version of transformers
        return f"no NeMo-RL: {error}"
    return ""


class _Stub(types.ModuleType):
    """A module that has every name: an empty class."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {}))
        return getattr(self, name)


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last: for what of Megatron is not installed, all of Megatron-Bridge among it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("megatron.") else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def import_policy_worker() -> Any:
    """Our worker's module, around NeMo-RL's real one and a Megatron-core that may be older than NeMo-RL's: names
    which that lacks are empty classes. Skips where NeMo-RL or Megatron-core is missing."""
    require_nemo_rl()
    pytest.importorskip("megatron.core")
    sys.meta_path.append(_StubFinder())
    while True:
        before = set(sys.modules)
        try:
            return importlib.import_module("nemo_rl_efficientrollout.nemo_rl.megatron_policy_worker")
        except ImportError as error:
            missing = MISSING_NAME.search(str(error))
            if missing is None or not missing[2].startswith("megatron."):
                raise
            setattr(sys.modules[missing[2]], missing[1], type(missing[1], (), {}))
            for name in [name for name in set(sys.modules) - before if name.startswith("nemo_rl")]:
                del sys.modules[name]  # half imported
