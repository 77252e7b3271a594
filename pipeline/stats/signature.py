"""The recipe of one number, in one line: what was measured by whom, what choices were made, how its interval was drawn.

E.g. ``winrate|judge:J|template:T|orders:2|ties:half|scores:hard|boot:10000,cluster,seed:1|v:1`` (statistics.md,
"Signature"). Every number of a table is signed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pipeline import __version__
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Comparison


def signature(
    statistic: str,
    choices: Mapping[str, object],
    bootstrap: Bootstrap | None = None,
    method: str = "boot",
    *extra: str,
) -> str:
    """The recipe of one number.

    Args:
        statistic: its name.
        choices: what it depends on, in order; ``None`` is written as ``none``.
        bootstrap: how its interval is drawn; ``None`` where it has none.
        method: an :class:`~pipeline.stats.intervals.Estimate`'s; named as ``interval:`` when it is not the bootstrap.
        extra: further fields; empty ones are left out.
    """
    fields = [statistic, *(f"{name}:{'none' if value is None else value}" for name, value in choices.items())]
    if bootstrap is not None:
        fields.append(f"boot:{bootstrap.draws},cluster,seed:{bootstrap.seed}")
        if bootstrap.confidence != 0.95:
            fields.append(f"confidence:{bootstrap.confidence:g}")
        if method != "boot":
            fields.append(f"interval:{method}")
    return "|".join([*fields, *filter(None, extra), f"v:{__version__}"])


def of_games(kind: Comparison, orders: int, soft: bool) -> dict[str, object]:
    """The choices behind a number that is made of games."""
    scores = "soft" if soft else "hard"
    return {"judge": kind.judge, "template": kind.template, "orders": orders, "ties": "half", "scores": scores}


@cache
def of_metric(metric: str) -> str:
    """The metric's own signature, as sacrebleu writes it; empty for metrics that have none."""
    from importlib.metadata import version

    recipe = {"chrf": "chrF2|sentence|nc:6|nw:0|space:no", "bleu": "BLEU|sentence|eff:yes|smooth:exp"}.get(metric)
    return f"{recipe}|sacrebleu:{version('sacrebleu')}" if recipe else ""
