"""A small name → object table with did-you-mean, and lazily read entry points."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, TypeVar

from napari_attnseg.errors import AttnSegError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest of ``known``, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}." if names else "None is known."


class Registry(Generic[T]):
    """Named objects of one kind, extended by other packages through an entry-point group.

    Parameters
    ----------
    kind : str
        What is registered, as it reads in an error message ("post-processor").
    group : str or None
        Entry-point group that is searched when a name is not found; nothing is imported before that.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self._kind = kind
        self._group = group
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item`` under ``name`` and return it; a taken name raises ``ValueError``."""
        if name in self._items:
            raise ValueError(f"{self._kind} '{name}' is registered already")
        self._items[name] = item
        return item

    def get(self, name: str, error: type[AttnSegError] = InputError) -> T:
        """Return the item, loading its entry point if needed; ``error`` with a hint if unknown."""
        if name not in self._items and self._group is not None:
            for point in entry_points(group=self._group, name=name):
                self._items[name] = point.load()
        if name not in self._items:
            raise error(f"Unknown {self._kind} '{name}'.", did_you_mean(name, self.names()))
        return self._items[name]

    def names(self) -> list[str]:
        """Return all names, those of entry points included, sorted."""
        points = entry_points(group=self._group) if self._group else ()
        return sorted({*self._items, *(p.name for p in points)})
