"""What a deliberate fault is: where it is put, and which test must see it."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Make = Callable[[Any], Any]
"""From what is there to what takes its place."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mutant."""

    name: str
    says: str
    """What is broken, in plain words."""
    where: str
    """`module:attribute`, looked up where it is used."""
    test: str
    """The pytest id that must turn red."""
    make: Make

    def target(self) -> tuple[Any, str]:
        """Owner and name of what is replaced. Raises ImportError or AttributeError where there is no such thing."""
        module, _, path = self.where.partition(":")
        *owners, name = path.split(".")
        owner = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        inspect.getattr_static(owner, name)
        return owner, name

    def apply(self) -> None:
        """Break it, in this process, for good."""
        owner, name = self.target()
        setattr(owner, name, self.make(inspect.getattr_static(owner, name)))


class Faults(dict[str, Fault]):
    """By name, as tests/mutants/faults collects them."""

    def at(self, where: str, seen_by: str, says: str) -> Callable[[Make], Make]:
        """Add a fault that the decorated function makes; its name is the function's."""

        def add(make: Make) -> Make:
            name = make.__name__.replace("_", "-")
            assert name not in self, name
            self[name] = Fault(name, says, where, seen_by, make)
            return make

        return add
