"""Passes that jobs share: the same tables as from one pass a job, with the model loaded once."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.row import Row, Score
from pipeline.engines.base import PoolConfig
from pipeline.engines.stage import Stage
from pipeline.execution.passes import PassSpec, finish
from pipeline.execution.shared import companions, merge, warn_of_shared_work
from pipeline.execution.together import Part, SharedWorker, kept_as, parts
from pipeline.execution.worker import Worker
from pipeline.jobs import generate, judge, select
from pipeline.jobs.job import Job, stored_config
from pipeline.jobs.run import jobs, run_jobs
from tests import inprocess
from tests.conftest import rows_of, run_with_prompts

TABLES = ("candidates", "selections", "games")


def config(folder: Path, *words: str) -> Config:
    """Generator, CHOPS and judge are one engine; best-of-N on another one."""
    mine = ["engines.judge=${engines.generator}", "selectors={random: null, likelihood: null, judge: null}"]
    mine += ["prompts.limit_clusters=2", "judge.audit=0", "execution.progress=false", f"out={folder}"]
    return load_config(["dummy", *mine, *words])


def plan(settings: Config) -> list[list[PassSpec]]:
    return [generate.passes(settings), select.passes(settings), judge.early_passes(settings)]


def names(settings: Config, run: RunFolder) -> list[str]:
    """Of the passes that would run together, the first being generate's last one."""
    first, *later = plan(settings)
    found = companions(first[-1], [lambda specs=specs: specs for specs in later], run)
    return [first[-1].name, *(each()[0].name for each in found)]


def test_only_passes_on_one_engine_run_together(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    whole = ["generate-generator", "select-judge", "judge-judge"]
    assert names(config(tmp_path, "selectors.best_of_n=null"), run) == whole
    assert names(config(tmp_path, "selectors.best_of_n=null", "judge.audit=3"), run) == whole[:2]  # donors must be read
    assert names(config(tmp_path), run) == ["generate-generator"]  # best-of-N's engine comes between
    assert names(config(tmp_path, "selectors.best_of_n=null", "engines.judge={kind: dummy, model: x}"), run) == [
        "generate-generator"
    ]
    first, later, _ = plan(config(tmp_path, "selectors.best_of_n=null"))
    smaller = replace(first[-1].engine, pool=PoolConfig(max_size=1))  # as a smaller cluster holds it
    placed = replace(first[-1], engine=smaller, wanted=first[-1].engine)
    assert len(companions(placed, [lambda: later], run)) == 1 and merge([placed, *later]).engine is smaller
    run.write_json({}, "work", "generate-generator", "state.json")  # begun by itself: nothing to share
    assert names(config(tmp_path, "selectors.best_of_n=null"), run) == ["generate-generator"]


def test_a_shared_pass_is_made_of_its_parts(tmp_path: Path) -> None:
    specs = [each[0] for each in plan(config(tmp_path, "selectors.best_of_n=null"))]
    whole = merge(specs)
    assert (whole.reads, whole.writes) == ("prompts", "work/generate-generator+select-judge+judge-judge/table")
    assert [s.name for s in whole.stages] == [s.name for spec in specs for s in spec.stages]
    last = [part.last for part in parts(specs)]
    assert last == [0, len(whole.stages) - 2, len(whole.stages) - 1]
    assert parts(specs)[0] == Part("generate", 0, ["scores", "usage", "errors"])
    assert parts(specs)[1].changed == ["usage", "errors"]


def test_interrupted_shared_work_is_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(str(tmp_path))
    spec = generate.passes(config(tmp_path))[0]
    warn_of_shared_work(spec, run)
    assert not caplog.records
    run.write_json({}, "work", "generate-generator+select-judge", "state.json")
    warn_of_shared_work(spec, run)
    assert "pass generate-generator by itself begins anew" in caplog.text


def test_the_worker_keeps_what_a_row_was_between_the_jobs(tmp_path: Path) -> None:
    """Without Ray: one worker with the stages of both jobs, against one worker after the other."""
    settings = config(tmp_path, "selectors.best_of_n=null", "engines.generator.fail='question 3'")
    specs = [generate.passes(settings)[0], select.passes(settings)[0]]
    table = pq.read_table(run_with_prompts(tmp_path / "run", 6).data_files("prompts")[0])
    workers = [Worker(spec.engine, spec.stages, spec.job) for spec in specs]
    first = workers[0](table)
    second = workers[1](first)
    shared = SharedWorker(parts(specs), merge(specs).stages, engine=specs[0].engine, job="both")(table)
    assert shared.select(second.column_names).to_pylist() == second.to_pylist()
    middle = {
        n: shared.column(kept_as(n, "generate") if n in parts(specs)[0].changed else n) for n in first.column_names
    }
    assert pa.table(middle).to_pylist() == first.to_pylist()
    assert any(first.column("errors").to_pylist()) and first.column("usage") != second.column("usage")


def test_a_refused_config_does_not_become_the_folders(tmp_path: Path) -> None:
    """Whether a joined pass goes on is known only when its own state is read, after the config has been stored."""
    run = RunFolder(str(tmp_path))
    run.write_text("seed: 7\n", "config.yaml")
    current = Job("generate", config(tmp_path), run)
    with pytest.raises(ResumeError), stored_config(current):
        assert "seed: 1" in (run.read_text("config.yaml") or "")
        raise ResumeError("made with another config")
    assert run.read_text("config.yaml") == "seed: 7\n"


class Odd(Stage):
    """Gives one row a value that no column can hold, which a later job replaces."""

    name: ClassVar[str] = "odd"
    writes: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, values: Any) -> None:
        self.values = values

    async def __call__(self, row: Row, engine: Any) -> Row:
        row.scores = [Score("s", "x", self.values if row.row_id == 1 else [1.0])]
        return row


def test_a_value_that_cannot_be_stored_costs_its_row_only(tmp_path: Path) -> None:
    table = pq.read_table(run_with_prompts(tmp_path / "run", 3).data_files("prompts")[0])
    specs = [
        PassSpec(job, job, "prompts", job, [Odd(values)]) for job, values in (("first", ["no number"]), ("then", [2.0]))
    ]
    made = SharedWorker(parts(specs), merge(specs).stages, engine=None, job="both")(table)
    first = made.column(kept_as("errors", "first")).to_pylist()
    assert [[(e["job"], e["stage"], e["kind"]) for e in errors] for errors in first] == [
        [],
        [("first", "odd", "UnstorableValue")],
        [],
    ]
    assert [s[0]["values"] if s else None for s in made.column(kept_as("scores", "first")).to_pylist()] == [
        [1.0],
        None,
        [1.0],
    ]
    assert [s[0]["values"] for s in made.column("scores").to_pylist()] == [[1.0], [2.0], [1.0]]


def everything(run: RunFolder, table: str) -> list[dict[str, Any]]:
    return rows_of(run, table, *(n for n in run.dataset(table).schema.names if n != "row_id"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_shared_and_separate_passes_give_the_same_tables(tmp_path: Path) -> None:
    """Row by row and column by column, one failing prompt included; and jobs run singly find them finished.

    The shared pass is on Ray, the separate ones are not.
    """
    runs, calls = {}, {}
    for share in (True, False):
        log = tmp_path / f"{share}.log"
        words = [
            "selectors.best_of_n=null",
            "engines.generator.fail='schwarzen Tee'",
            f"engines.generator.log={log}",
        ]
        words += [f"execution.share_passes={share}".lower(), "sampling.confidence_tokens=5"]
        settings = config(tmp_path / str(share), *words)
        with nullcontext() if share else inprocess.without_ray():
            run_jobs(settings, jobs(settings))
        runs[share], calls[share] = RunFolder(settings.out), log.read_text().splitlines()
        before = [runs[share].marker(table) for table in TABLES]
        for job in (generate, select, judge):
            job.run(settings)
        assert [runs[share].marker(table) for table in TABLES] == before
        assert log.read_text().splitlines() == calls[share]
    assert len(calls[True]) == len(calls[False])
    for table in TABLES:
        shared, separate = (everything(runs[share], table) for share in (True, False))
        assert len(shared) == 14 and shared == separate
        markers = [runs[share].marker(table) or {} for share in (True, False)]
        for key in ("fingerprint_hash", "pass", "rows", "schema"):
            assert markers[0][key] == markers[1][key]
        assert [bool(m["summary"]["shared"]) for m in markers] == [True, False]
        for key in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "failed"):
            assert markers[0]["summary"][key] == markers[1]["summary"][key]
    assert any(row["errors"] for row in everything(runs[True], "candidates"))
    assert not any(item["job"] == "select" for row in everything(runs[True], "candidates") for item in row["usage"])
    passes = runs[True].read_json("manifest.json")["passes"]
    assert list(passes) == ["generate-generator", "select-judge", "judge-judge"]
    assert not runs[True].exists("work", "generate-generator+select-judge+judge-judge")


@pytest.mark.usefixtures("no_ray")
def test_a_crash_between_the_markers_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    settings = config(tmp_path / "run", "selectors.best_of_n=null", f"engines.generator.log={log}")
    run, done = RunFolder(settings.out), []

    def crash(*given: Any) -> None:
        done.append(given)
        if len(done) == 2:
            raise KeyboardInterrupt
        finish(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.execution.shared.finish", crash)
        run_jobs(settings, jobs(settings))
    asked = log.read_text()
    assert [run.marker(table) is not None for table in TABLES] == [True, False, False]
    run_jobs(settings, jobs(settings))
    assert log.read_text() == asked
    assert [(run.marker(table) or {})["rows"] for table in TABLES] == [14, 14, 14]
    assert run.subfolders("work") == []


def test_a_shared_pass_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Half of the rows are stored: these are not asked about again, in none of the jobs."""
    log = tmp_path / "log"
    words = ["selectors.best_of_n=null", f"engines.generator.log={log}", "execution.rows_per_checkpoint=2"]
    settings = config(tmp_path / "run", *words)

    def kill(stored: int) -> None:
        if stored == 3:
            raise KeyboardInterrupt

    with inprocess.without_ray(kill), pytest.raises(KeyboardInterrupt):
        run_jobs(settings, jobs(settings))
    run, half = RunFolder(settings.out), len(log.read_text().splitlines())
    assert half > 0 and not any(run.marker(table) for table in TABLES)
    whole = config(tmp_path / "whole", *words, f"engines.generator.log={tmp_path / 'whole.log'}")
    with inprocess.without_ray():
        run_jobs(settings, jobs(settings))
        run_jobs(whole, jobs(whole))
    for table in TABLES:
        assert everything(run, table) == everything(RunFolder(whole.out), table)
    assert Counter(log.read_text().splitlines()) == Counter((tmp_path / "whole.log").read_text().splitlines())
    assert (run.marker("candidates") or {})["summary"]["resumed"] == 6
