"""A run's report, from the results that ``winrate`` stored; of the run's tables only the rows to read are opened."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.report.model import Report
from pipeline.report.prompts import read_prompts
from pipeline.stats.costs import pass_costs
from pipeline.stats.counts import agreements
from pipeline.stats.reading import results_table
from pipeline.stats.results import results_of


def collect(run: RunFolder, config: Config) -> Report:
    """The content of a finished run's page.

    Raises:
        UnfinishedTableError: ``judge`` (or without games and outside answers ``select``) has not finished.
        InputError: a table cannot be used.
    """
    table = results_table(run, config)
    run.dataset(table)
    results = results_of(run, config)
    selects, generates = config.judge_conflicts()
    return Report(
        **vars(results.overview),
        config=config,
        results=results,
        contests=results.contests(config),
        tasks=results.tasks(),
        selectors=results.choices,
        agreement=agreements(results.agreement),
        passes=pass_costs(config, run),
        prompts=read_prompts(run, table, results.picks),
        manifest=run.manifest(),
        tables=list(results.tables()) if results.is_stored else [],
        judge_selects=selects,
        judge_generates=generates,
    )
