"""One registry for everything that a config picks by its ``kind``: engines, sources, selectors, utilities."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pipeline.core.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a ``kind`` to a class.

    Args:
        what: the word used in messages, such as ``"selector"``.
        modules: modules that register the built-in kinds when they are imported; they are imported
            at the first look-up, so that ``import pipeline`` stays fast.
    """

    def __init__(self, what: str, modules: tuple[str, ...] = ()) -> None:
        self.what = what
        self._modules = modules
        self._loaded = False
        self._items: dict[str, type[T]] = {}

    def register(self, kind: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class available under ``kind``.

        Raises:
            ConfigError: another class has that name already.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._items.get(kind)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ConfigError(f"two {self.what}s are registered as {kind!r}: {known} and {cls}")
            self._items[kind] = cls
            cls.kind = kind  # type: ignore[attr-defined]
            return cls

        return add

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for module in self._modules:
                importlib.import_module(module)

    def get(self, kind: str, key: str = "kind") -> type[T]:
        """Return the class registered as ``kind``.

        Raises:
            ConfigError: nothing has that name; the message names ``key`` and the nearest valid kind.
        """
        self._load()
        try:
            return self._items[kind]
        except KeyError:
            raise ConfigError(f"{key}: unknown {self.what} {kind!r}{nearest(kind, self._items)}") from None

    def __contains__(self, kind: object) -> bool:
        self._load()
        return kind in self._items

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._items))

    def items(self) -> list[tuple[str, type[T]]]:
        """All registered (kind, class) pairs, sorted by kind."""
        self._load()
        return sorted(self._items.items())
