"""The pilot: a few prompts, chosen by hash over languages and tasks, that go through the whole path first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.prompts.write import write_some
from pipeline.stats.costs import Stratum

FOLDER = ("work", "pilot")


def choose_pilot(rows: Iterable[tuple[str, Stratum]], size: int, seed: int) -> list[int]:
    """Positions of ``size`` rows, every stratum in proportion to its size; ascending.

    Within a stratum the order is that of a seeded hash of the prompt's id. The k-th row of a stratum of m stands at
    (k + u) / m with a hash u of the stratum, and the first ``size`` rows in that order are taken.

    Args:
        rows: (prompt_id, stratum) of every row, in table order.
    """
    members: dict[Stratum, list[tuple[int, int]]] = defaultdict(list)
    for position, (prompt_id, stratum) in enumerate(rows):
        members[stratum].append((derive_seed("pilot", seed, prompt_id), position))
    order = []
    for stratum, found in members.items():
        offset = derive_seed("pilot", seed, *stratum) / 2**31
        order += [((k + offset) / len(found), position) for k, (_, position) in enumerate(sorted(found))]
    return sorted(position for _, position in sorted(order)[:size])


def write_pilot(run: RunFolder, pilot: RunFolder, size: int, seed: int) -> None:
    """Write the pilot's ``prompts/`` table: some of the run's prompts.

    Args:
        run: its ``prompts/`` are finished.
        pilot: empty folder.
        size: rows of the pilot, at most.
    """
    table = run.table("prompts", ("prompt_id", "language", "task"))
    named: Any = zip(*(table.column(c).to_pylist() for c in ("prompt_id", "language", "task")), strict=True)
    chosen = choose_pilot(((p, (language, task)) for p, language, task in named), size, seed)
    write_some(run, pilot, np.array(chosen, np.int64))
