"""Passes side by side: neighbouring passes of a job whose engines find room at the same time become one.

Its plan holds all of their pools, one after the other. A block goes from pool to pool without being written between
them, so the second engine works while the first one still does; rows are durable when the last pool is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.core.folder import RunFolder
from pipeline.execution.spec import PassSpec, joined
from pipeline.execution.unfinished import is_fresh

Fits = Callable[[Sequence[PassSpec]], bool]
"""Whether the cluster holds the pools of these passes at once."""


def side_by_side(specs: Sequence[PassSpec], run: RunFolder, fits: Fits) -> list[PassSpec]:
    """The passes of a job, neighbours joined as long as they fit.

    A pass with an unfinished or finished table of its own, one that extends a table, and one that waits for decisions
    over its whole input runs by itself. So does the rest when a run goes on that was begun in turn.
    """
    groups: list[list[PassSpec]] = []
    for spec in specs:
        group = groups[-1] if groups else []
        if group and all(_can_join(each, run) for each in (*group, spec)) and fits([*group, spec]):
            group.append(spec)
        else:
            groups.append([spec])
    found: list[PassSpec] = []
    earlier: list[str] = []
    for group in groups:
        spec = join(group) if len(group) > 1 else group[0]
        if spec.reads.startswith("work/") and found:
            spec = replace(spec, reads=found[-1].writes)
        if not spec.skip:
            spec = replace(spec, earlier=list(earlier))
            earlier.append(spec.name)
        found.append(spec)
    return found


def join(specs: Sequence[PassSpec]) -> PassSpec:
    """One pass that does what ``specs`` do one after the other, with all of their pools."""
    last = specs[-1]
    writes = "" if last.is_between else last.writes
    options = {"job": last.job, "record": last.record, "force": last.force, "pools": list(specs)}
    return joined(specs, writes, earlier=specs[0].earlier, **options)


def _can_join(spec: PassSpec, run: RunFolder) -> bool:
    return spec.prepare is None and spec.engine is not None and is_fresh(spec, run)


__all__ = ["join", "side_by_side"]
