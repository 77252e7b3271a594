"""Passes that jobs share: the same tables as from one pass a job, with the model loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands import generate, judge, select
from pipeline.commands.run import jobs, run_jobs
from pipeline.config import Config, load_config
from pipeline.execution.passes import PassSpec
from pipeline.execution.shared import companions, merge, warn_of_shared_work
from pipeline.execution.together import Part, SharedWorker, kept_as, parts
from pipeline.execution.worker import Worker
from pipeline.storage import RunFolder
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


def everything(run: RunFolder, table: str) -> list[dict[str, Any]]:
    return rows_of(run, table, *(n for n in run.dataset(table).schema.names if n != "row_id"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_shared_and_separate_passes_give_the_same_tables(tmp_path: Path) -> None:
    """Row by row and column by column, one failing prompt included; and jobs run singly find them finished."""
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
