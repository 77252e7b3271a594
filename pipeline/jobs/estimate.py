"""``estimate``: what a run will cost, from a pilot of a few of its prompts."""

from __future__ import annotations

import logging
from dataclasses import replace

from pipeline.config.config import Config, to_dict
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.execution.control import Ledger
from pipeline.jobs import job as context
from pipeline.jobs import spending
from pipeline.jobs.pilot import FOLDER, write_pilot
from pipeline.judging.audit import choose_rows
from pipeline.prompts.sources import read_prompts
from pipeline.stats.costs import Costs, engines_of, extrapolate, extrapolate_passes, read_pilot, strata
from pipeline.stats.reading import last_table

logger = logging.getLogger(__name__)

_SIZE = 10
_ESTIMATE = (*FOLDER, "estimate.json")
_NO_MATTER = ("out", "execution", "limits", "ray", "winrate", "report")


def run(config: Config) -> None:
    """Put ``execution.pilot`` prompts (10 when it is 0) through generate, select and judge, and extrapolate.

    Raises:
        ConfigError, InputError: before any model loads.
        LemonpressError: a pass of the pilot failed.
    """
    from pipeline.jobs.run import check

    check(config)
    spending.print_costs(estimate(config), None)


def estimate(config: Config) -> Costs:
    """The costs of all prompts, from a pilot under ``work/pilot``; stored, and made once for every config.

    The pilot's work is thrown away: candidates come from the same seeds again when their turn comes.
    """
    run = RunFolder(config.out)
    size = config.execution.pilot or _SIZE
    with context.session(config, run):
        read_prompts(config.prompts, run)
        source = (run.marker("prompts") or {}).get("fingerprint_hash")
        settings = {k: v for k, v in to_dict(config).items() if k not in _NO_MATTER}
        key = digest(settings, source, size)
        stored = run.read_json(*_ESTIMATE)
        if stored and stored["key"] == key:
            return Costs.from_json(stored["costs"])
        pilot = run.inside(*FOLDER)
        if (pilot.read_json("key.json") or {}).get("key") != key:
            run.remove(*FOLDER)
            write_pilot(run, pilot, size, config.seed)
            pilot.write_json({"key": key}, "key.json")
        costs = _estimate(config, run, pilot)
        run.write_json({"key": key, "costs": costs.as_json()}, *_ESTIMATE)
        context.update_manifest(run, {"costs": {"estimate": costs.as_json()}})
    return costs


def _estimate(config: Config, run: RunFolder, pilot: RunFolder) -> Costs:
    from pipeline.execution.cluster import cluster
    from pipeline.execution.pool import cluster_processors, cpu_pool
    from pipeline.jobs.run import make

    execution = replace(config.execution, max_failed_rows=1.0, pilot=0)
    small = replace(config, out=pilot.name, execution=execution)
    with cluster(config.ray):
        make(small)
        processors = cluster_processors()
    Ledger.transfer(run, "pilot", pilot)
    rows = read_pilot(pilot, last_table(pilot))
    population = strata(run)
    total = sum(population.values())
    costs = extrapolate(config, rows, population, engines_of(pilot), _audited(config, run, pilot))
    shards = len((run.marker("prompts") or {}).get("sizes", ()))
    pool = cpu_pool(shards, *processors, execution)
    costs.passes = extrapolate_passes(config, pilot, total / len(rows), pool.most())
    for name, limit, spent in (
        ("tokens", config.limits.tokens, costs.tokens),
        ("money", config.limits.money, costs.money),
        ("seconds", config.limits.seconds, costs.seconds),
    ):
        if limit is not None and spent is not None and spent > limit:
            logger.warning("limits.%s=%s will not do: the estimate is %s", name, f"{limit:g}", f"{spent:,.4g}")
    return costs


def _audited(config: Config, run: RunFolder, pilot: RunFolder) -> float | None:
    """How many times more rows the judge's audit takes of all prompts than of the pilot's."""
    counts = []
    for folder in (run, pilot):
        rows = folder.iter_rows("prompts", ("row_id", "prompt_id", "cluster_id", "language"))
        named = ((r["row_id"], r["cluster_id"] or r["prompt_id"], r["language"]) for r in rows)
        counts.append(len(choose_rows(named, config.judge.audit, config.seed)) if config.judge.audit else 0)
    return counts[0] / counts[1] if counts[1] else None
