"""Bounds of a config's values: declared with the field, looked at by whoever loads the config."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.core.errors import ConfigError, nearest

_BOUNDS = "lemonpress"


@dataclasses.dataclass(frozen=True)
class _Bounds:
    """See :func:`bounded`."""

    limits: Sequence[tuple[str, float, Callable[[float, float], bool]]]
    one_of: Sequence[str]
    filled: bool
    cure: str

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value."""
        if self.filled and value == "":
            return "missing"
        if self.one_of and value not in self.one_of:
            return f"there is no {value!r}{nearest(str(value), self.one_of)}"
        if all(holds(value, limit) for _, limit, holds in self.limits):
            return None
        return f"must be {' and '.join(f'{words} {limit:g}' for words, limit, _ in self.limits)}, not {value}"


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    one_of: Sequence[str] = (),
    filled: bool = False,
    cure: str = "",
) -> Any:
    """A dataclass field whose value (of a list or map: each) :func:`check_values` holds to these bounds.

    ``None`` passes, whatever the bounds.

    Args:
        default, factory: as those of ``dataclasses.field``.
        ge, gt, le, lt: bounds of a number.
        one_of: the texts that are possible.
        filled: a text may not be empty.
        cure: what to do, for the message; ``{at}`` is the key of the section.
    """
    known = (
        ("at least", ge, lambda value, limit: value >= limit),
        ("more than", gt, lambda value, limit: value > limit),
        ("at most", le, lambda value, limit: value <= limit),
        ("less than", lt, lambda value, limit: value < limit),
    )
    limits = tuple((words, limit, holds) for words, limit, holds in known if limit is not None)
    bounds = _Bounds(limits, tuple(one_of), filled, cure)
    return dataclasses.field(default=default, default_factory=factory, metadata={_BOUNDS: bounds})


def check_values(section: Any, key: str) -> None:
    """Hold a config's dataclass, and all inside it, to the bounds of their fields, then to their own ``check(key)``.

    Raises:
        ConfigError: names the key, the value and the bound.
    """
    for field in dataclasses.fields(section):
        bounds = field.metadata.get(_BOUNDS)
        for full, value in _items(f"{key}.{field.name}" if key else field.name, getattr(section, field.name)):
            if dataclasses.is_dataclass(value):
                check_values(value, full)
            elif isinstance(value, float) and math.isnan(value):
                raise ConfigError(f"{full}: must be a number, not {value}")
            elif bounds and value is not None and (problem := bounds.problem(value)):
                cure = f"; {bounds.cure.replace('{at}', key)}" if bounds.cure else ""
                raise ConfigError(f"{full}: {problem}{cure}")
    if hasattr(section, "check"):
        section.check(key)


def _items(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{key}.{name}", item) for name, item in value.items())
    elif isinstance(value, list):
        yield from ((f"{key}[{i}]", item) for i, item in enumerate(value))
    else:
        yield key, value
