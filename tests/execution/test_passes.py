"""A pass with the dummy engine: on a real local Ray what is Ray's part in it, the rest without (tests/inprocess.py)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.config.sections import ExecutionConfig
from pipeline.core.errors import LemonpressError, ResumeError, TooManyFailedRows
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.row import Row
from pipeline.engines.base import Engine, PoolConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.pool import calls_per_actor, cpu_pool
from pipeline.execution.spec import PassSummary
from pipeline.execution.worker import Worker
from pipeline.jobs import generate, judge, select
from pipeline.prompts.write import shard_size
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests import inprocess
from tests.conftest import jsonl, rows_of, run_with_prompts
from tests.execution import harness
from tests.execution.harness import Site, begun, run_stages, wait_for


def on_ray(test: Any) -> Any:
    """A test that needs a real Ray."""
    return pytest.mark.ray(pytest.mark.usefixtures("ray_cluster")(test))


without_ray = pytest.mark.usefixtures("no_ray")


def sample(run: RunFolder, engine: DummyEngineConfig, seed: int = 1, **options: Any) -> PassSummary:
    stage = GenerateStage("hedged", Hedged(max_tokens=16), seed)
    return run_stages(run, [stage], engine, settings={"seed": seed}, **options)


@on_ray
def test_rows_in_are_rows_out_and_untouched_columns_keep_their_types(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 30)
    source = pa.struct([("row", pa.int64()), ("when", pa.timestamp("ms")), ("tags", pa.list_(pa.large_string()))])
    for path in run.files("prompts"):
        table = pq.read_table(path)
        values = [{"row": i, "when": None, "tags": ["a"]} for i in range(len(table))]
        index = table.column_names.index("source")
        pq.write_table(table.set_column(index, "source", pa.array(values, source)), path)
    run.complete("prompts", run.marker("prompts") or {})

    summary = sample(run, DummyEngineConfig(model="d"))

    rows = rows_of(run, "candidates", "prompt_id", "candidates", "usage", "errors")
    assert [r["prompt_id"] for r in rows] == [f"p{i}" for i in range(30)]
    assert run.dataset("candidates").schema.field("source").type == source
    for r in rows:
        assert [c["origin"] for c in r["candidates"]] == ["greedy", "sample", "sample", "sample", "sample"]
        assert all(c["text"] and c["finish_reason"] and c["logprob"] < 0 and c["num_tokens"] for c in r["candidates"])
        seeds = [c["seed"] for c in r["candidates"][1:]]
        assert seeds == list(range(seeds[0], seeds[0] + 4))
        assert [(u["job"], u["stage"], u["requests"]) for u in r["usage"]] == [("generate", "generate:hedged", 2)]
        assert r["errors"] == []
    assert (summary.rows, summary.failed, summary.requests) == (30, 0, 60)
    assert summary.completion_tokens == sum(c["num_tokens"] for r in rows for c in r["candidates"])


@without_ray
def test_one_seed_gives_equal_tables_another_differs(tmp_path: Path) -> None:
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = run_with_prompts(tmp_path / name, 24)
        sample(run, DummyEngineConfig(model="d"), seed)
        tables.append(rows_of(run, "candidates", "prompt_id", "candidates", "usage", "errors"))
    assert tables[0] == tables[1]
    different = [
        a["candidates"][1]["text"] != c["candidates"][1]["text"] for a, c in zip(tables[0], tables[2], strict=True)
    ]
    assert all(different)


@without_ray
def test_a_finished_pass_runs_nothing_and_another_config_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "calls.log"
    run = run_with_prompts(tmp_path / "run", 8)
    engine = DummyEngineConfig(model="d", log=str(log))
    first = sample(run, engine)
    calls = len(log.read_text().splitlines())
    again = sample(run, engine)
    assert (again.skipped, again.rows, again.requests) == (True, first.rows, first.requests)
    assert len(log.read_text().splitlines()) == calls
    with pytest.raises(ResumeError, match=r'-\s+"seed": 1\n\+\s+"seed": 2') as error:
        sample(run, engine, seed=2)
    assert "out=" in str(error.value)


@without_ray
def test_a_failing_request_becomes_an_error_row_not_a_lost_one(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 20)
    summary = sample(run, DummyEngineConfig(model="d", fail=r"question 1?7$"))
    rows = rows_of(run, "candidates", "prompt_id", "candidates", "errors")
    failed = {r["prompt_id"]: r for r in rows if r["errors"]}
    assert set(failed) == {"p7", "p17"}
    assert summary.failed == 2
    error = failed["p7"]["errors"][0]
    assert (error["job"], error["stage"], error["kind"]) == ("generate", "generate:hedged", "EngineRequestError")
    assert "told to fail" in error["message"]
    assert all(c["error"] and c["text"] is None for c in failed["p7"]["candidates"])
    assert len(failed["p7"]["candidates"]) == 5


@on_ray
def test_a_model_that_does_not_load_fails_fast(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 4)
    started = time.monotonic()
    with pytest.raises(LemonpressError, match="no such thing"):
        sample(run, BrokenEngine(model="d"))
    assert time.monotonic() - started < 60


class BrokenEngine(DummyEngineConfig):
    def create(self) -> Engine:
        raise RuntimeError("no such thing")


@on_ray
def test_rows_in_flight_stay_above_sixty(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 800, shard_rows=50)
    summary = sample(run, DummyEngineConfig(model="d", latency=0.4, slots=256))
    print(f"mean rows in flight per actor: {summary.mean_in_flight} (256 sequences, 5 a row, 0.4 s latency)")
    assert summary.mean_in_flight >= 60


def stored_shards(site: Site) -> int:
    """How many shards of ``generate`` a later attempt would not do again."""
    return len(list((site.folder / "candidates" / "generate-generator").glob("*.parquet")))


def log_lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@on_ray
def test_sigkill_on_the_way_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The driver is killed in the midst of generate; the same command gives the table of an undisturbed run."""
    n, k = 320, 4
    prompts = harness.write_prompts(tmp_path / "prompts.jsonl", n)
    killed, whole = (Site("generate", tmp_path / name, prompts) for name in ("killed", "whole"))
    log = tmp_path / "calls.log"
    logged = f"engines.generator.log={log}"
    process = killed.process(logged, "engines.generator.latency=0.4", "engines.generator.slots=16")
    wait_for(lambda: process.poll() is not None or begun(log) >= n // 2)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(harness.no_worker_left)  # the cluster ends the dead driver's actors
    at_kill, stored = log_lines(log), stored_shards(killed)
    assert killed.run.marker("candidates") is None

    assert killed.start(logged) == 0
    with inprocess.without_ray():
        assert whole.start() == 0
    assert len(killed.rows()) == n
    assert killed.rows() == whole.rows()

    summary = killed.summary()
    assert (summary["resumed"], summary["restarts"]) == (stored * k, 0) and stored > 0
    # Each row makes two requests. A row is done twice when it had begun, and its shard was not stored, at the kill.
    times = Counter(line[1] for line in log_lines(log) if line[2] == "begin")
    twice = sum(count > 2 for count in times.values())
    assert len(times) == n
    position = {str(derive_seed(f"user: question {i}")): i for i in range(n)}
    open_shards = len({position[line[1]] // k for line in at_kill}) - stored
    print(f"rows done twice: {twice} of {n}; {open_shards} shards of {k} were open")
    assert twice <= open_shards * k <= 60


def small(tmp_path: Path, *words: str) -> Config:
    return load_config(
        ["dummy", "execution.progress=false", "prompts.limit_clusters=2", f"out={tmp_path / 'run'}", *words]
    )


@without_ray
def test_the_jobs_fill_the_tables(tmp_path: Path) -> None:
    """Candidates, selections, answers of an opponent model and of a file, audit and games, all in one row."""
    given = jsonl(
        tmp_path / "given.jsonl", {"prompt_id": "tea-en", "text": "Boil water, then pour it over the leaves."}
    )
    words = ["sampling.n=3", "judge.candidates=true", "judge.opponent=other", "judge.audit=1", "judge.reason_tokens=5"]
    words += ["answers.other={kind: engine, engine: judge, max_tokens: 20}"]
    config = small(tmp_path, *words, f"answers.filed={{kind: file, path: {given}}}")
    generate.run(config)
    select.run(config)
    judge.run(config)
    run = RunFolder(config.out)
    columns = ("prompt_id", "cluster_id", "candidates", "scores", "selections", "answers", "games", "errors")
    rows = rows_of(run, "games", *columns)
    assert len(rows) == 14
    for r in rows:
        assert len(r["candidates"]) == 3
        assert sorted(s["method"] for s in r["selections"]) == sorted(config.selectors)
        assert all(s["text"] for s in r["selections"])
        assert all(len(s["values"]) == 3 for s in r["scores"] if s["plan"] == "hedged")
        played = Counter(g["system"] for g in r["games"] if g["opponent"] == "other")
        systems = [f"hedged/{m}" for m in config.selectors]
        assert played == {s: 2 for s in (*systems, *(f"hedged#{i}" for i in range(3)), "filed")}
        answers = {a["system"]: a["text"] for a in r["answers"]}
        assert sorted(answers) == ["filed", "other"] and answers["other"]
        assert all(g["reason"] for g in r["games"])  # a judge's words, or why it was not asked
        assert r["errors"] == []
    filed = [next(a["text"] for a in r["answers"] if a["system"] == "filed") for r in rows]
    assert [t is not None for t in filed] == [r["prompt_id"] == "tea-en" for r in rows]
    audited = [r for r in rows if any(g["opponent"] == "audit:identical" for g in r["games"])]
    assert len(audited) == 7 and len({r["cluster_id"] for r in audited}) == 1  # one prompt a language, one question
    measured = {s["plan"] for r in rows for s in r["scores"] if s["scorer"] == "metric:language"}
    assert measured == {"hedged", "answer:other", "answer:filed"}
    chops = [s for r in rows for s in r["selections"] if s["method"] == "chops"]
    assert {s["index"] for s in chops} == {0, 1, 2}


@without_ray
def test_too_many_failed_rows_end_with_their_own_exit_code(tmp_path: Path) -> None:
    config = small(tmp_path, "engines.generator.fail='user:'")
    with pytest.raises(TooManyFailedRows, match="14 of 14 rows failed") as error:
        generate.run(config)
    assert error.value.exit_code == 3
    select.run(config)  # rows without candidates are carried along
    rows = rows_of(RunFolder(config.out), "selections", "selections")
    assert all(s["index"] is None and s["text"] is None for r in rows for s in r["selections"])


def test_shards_follow_the_number_of_rows() -> None:
    def shards(rows: int) -> tuple[int, int]:
        """How many, and the largest."""
        count = before = size = 0
        while before < rows:
            size = shard_size(before)
            before, count = before + size, count + 1
        return count, size

    assert [shards(n) for n in (56, 800, 20_000, 200_000)] == [(4, 16), (36, 49), (420, 50), (4_020, 50)]
    count, largest = shards(1_000_000)
    assert count < 11_000 and 240 < largest <= 250
    count, largest = shards(100_000_000)
    assert count < 40_000 and largest == 5_000


def test_an_actor_has_enough_rows_at_hand() -> None:
    engine = DummyEngineConfig()
    for rows in (4, 50, 2000):
        assert calls_per_actor(rows, 5, engine) * rows * 5 >= 8 * engine.max_requests() or rows == 4
        assert calls_per_actor(rows, 5, engine) >= 16  # each may be open for its slowest row alone
    assert calls_per_actor(4, 1, replace(engine, slots=4096)) == 64
    assert calls_per_actor(4, 1, None) == 2


def test_a_pass_without_an_engine_gets_more_actors_as_far_as_it_has_shards_and_the_cluster_room() -> None:
    default = ExecutionConfig()
    assert [cpu_pool(shards, 64, 64, default).size for shards in (1, 31, 32, 250, 5_000)] == [1, 1, 2, 15, 32]
    assert cpu_pool(250, 2, 8, default) == PoolConfig(size=1)
    assert cpu_pool(1, 2, 8, ExecutionConfig(cpu_workers=3)).size == 3
    assert cpu_pool(1, 2, 8, ExecutionConfig(cpu_workers=16)).size == 6  # with all CPUs taken a pass would hang


class Slow(Stage):
    """Takes a while over each row."""

    name = "slow"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        await asyncio.sleep(0.2)
        return row


@on_ray
@pytest.mark.parametrize("wanted", [None, pytest.param(2, marks=pytest.mark.slow)], ids=["derived", "said"])
def test_several_actors_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int | None) -> None:
    monkeypatch.setattr("pipeline.execution.pool.cluster_processors", lambda: (4.0, 8.0))
    run = run_with_prompts(tmp_path, 160, shard_rows=4)
    summary = run_stages(run, [Slow()], cpu_workers=wanted)
    assert (summary.rows, summary.failed, summary.restarts) == (160, 0, 0)
    assert summary.workers == 2
    assert [r["prompt_id"] for r in rows_of(run, "candidates", "prompt_id")] == [f"p{i}" for i in range(160)]


@without_ray
def test_lost_rows_are_noticed(tmp_path: Path) -> None:
    run, engine = run_with_prompts(tmp_path, 8), DummyEngineConfig(model="d")
    write = Worker._write_file

    def lose_one(worker: Worker, spec: Any, number: int, ids: list[int], *rest: list[Any]) -> None:
        write(worker, spec, number, ids[1:], *(each[1:] for each in rest))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "_write_file", lose_one)
        with pytest.raises(LemonpressError, match=r"8 rows went in, 7 came out"):
            sample(run, engine)
    assert run.marker("candidates") is None


@without_ray
def test_teachers_evidence_and_policy_in_one_run(tmp_path: Path) -> None:
    """Two generators fill one candidate set, evidence goes beside it, and the policy's answer exists in every row."""
    words = ["engines.second={kind: dummy, model: second}", "sampling.n=3"]
    words += ["plans.a={kind: single, n: 1, candidate_set: teachers}"]
    words += ["plans.b={kind: single, n: 1, candidate_set: teachers, engine: second}"]
    words += ["plans.evidence={kind: evidence, n: 2, redraws: 0}", "selectors.xmbr={engine: judge}"]
    words += ["policy.default={plan: hedged, selector: mbr}"]
    words += ["policy.ja={language: ja, plan: teachers, selector: likelihood}"]
    config = small(tmp_path, *words)
    generate.run(config)
    select.run(config)
    judge.run(config)
    run = RunFolder(config.out)
    rows = rows_of(run, "games", "language", "candidates", "selections", "games", "errors")
    assert len(rows) == 14
    for r in rows:
        plans = Counter(c["plan"] for c in r["candidates"])
        assert plans["evidence"] <= 2
        models = [c["model"] for c in r["candidates"] if c["plan"] == "teachers"]
        if r["language"] == "ja":
            assert (models, plans["hedged"]) == (["dummy-generator", "second"], 0)
        else:
            assert (models, plans["hedged"]) == ([], 3)
        ours = {s["method"]: s for s in r["selections"] if s["plan"] == "policy"}
        assert {"policy", "sample", "xmbr", "chops"} <= set(ours)
        assert ours["policy"]["text"]
        assert {g["opponent"] for g in r["games"] if g["system"].startswith("policy/")} == {"policy/sample"}
        assert r["errors"] == []
    assert set((run.marker("candidates") or {})["passes"]) == {"generate-generator", "generate-second"}


@without_ray
def test_a_run_without_a_judge_and_without_metrics_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = jsonl(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})  # without a language, which is a metric
    words = ["dummy", f"out={tmp_path / 'run'}", "execution.progress=false", "judge={engine: null}"]
    words += ["prompts.kind=file", f"prompts.path={prompts}"]
    drop = ["greedy", "likelihood", "best_of_n", "judge", "chops"]
    assert main(["run", *words, *(f"selectors.{name}=null" for name in drop)]) == 0
    assert "no results are computed" in capsys.readouterr().out
    assert (tmp_path / "run" / "report" / "index.html").is_file()
