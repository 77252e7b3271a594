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
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

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
from pipeline.execution.passes import PassSpec, PassSummary, run_pass
from pipeline.execution.sizes import calls_per_actor, cpu_pool, rows_per_block
from pipeline.execution.summary import summarise
from pipeline.jobs import generate, judge, select
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests import inprocess
from tests.conftest import jsonl, rows_of, run_with_prompts
from tests.execution import harness
from tests.execution.harness import Site, begun, wait_for


def on_ray(test: Any) -> Any:
    """A test that needs a real Ray."""
    return pytest.mark.ray(pytest.mark.usefixtures("ray_cluster")(test))


without_ray = pytest.mark.usefixtures("no_ray")


def spec(engine: DummyEngineConfig, seed: int = 1, plan: Hedged | None = None) -> PassSpec:
    stage = GenerateStage("hedged", plan or Hedged(max_tokens=16), seed)
    return PassSpec("generate", "generate", "prompts", "candidates", [stage], engine, 5, {"seed": seed})


def quiet(**options: Any) -> ExecutionConfig:
    return ExecutionConfig(progress=False, **options)


@on_ray
def test_rows_in_are_rows_out_and_untouched_columns_keep_their_types(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 30)
    source = pa.struct([("row", pa.int64()), ("when", pa.timestamp("ms")), ("tags", pa.list_(pa.large_string()))])
    table = pq.read_table(run.data_files("prompts")[0])
    values = [{"row": i, "when": None, "tags": ["a"]} for i in range(30)]
    index = table.column_names.index("source")
    pq.write_table(table.set_column(index, "source", pa.array(values, source)), run.data_files("prompts")[0])

    summary = run_pass(spec(DummyEngineConfig(model="d")), run, quiet())

    rows = rows_of(run, "candidates", "prompt_id", "candidates", "usage", "errors")
    assert [r["prompt_id"] for r in rows] == [f"p{i}" for i in range(30)]
    assert run.dataset("candidates").schema.field("source").type == source
    assert b"lemonpress" in run.dataset("candidates").schema.metadata
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
        run_pass(spec(DummyEngineConfig(model="d"), seed), run, quiet(rows_per_checkpoint=5))
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
    first = run_pass(spec(engine), run, quiet())
    calls = len(log.read_text().splitlines())
    again = run_pass(spec(engine), run, quiet())
    assert (again.skipped, again.rows, again.requests) == (True, first.rows, first.requests)
    assert len(log.read_text().splitlines()) == calls
    with pytest.raises(ResumeError, match=r'-\s+"seed": 1\n\+\s+"seed": 2') as error:
        run_pass(spec(engine, seed=2), run, quiet())
    assert "out=" in str(error.value)


@without_ray
def test_a_failing_request_becomes_an_error_row_not_a_lost_one(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 20)
    summary = run_pass(spec(DummyEngineConfig(model="d", fail=r"question 1?7$")), run, quiet())
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
        run_pass(spec(BrokenEngine(model="d")), run, quiet())
    assert time.monotonic() - started < 60


class BrokenEngine(DummyEngineConfig):
    def create(self) -> Engine:
        raise RuntimeError("no such thing")


@on_ray
def test_rows_in_flight_stay_above_sixty(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 800)
    engine = DummyEngineConfig(model="d", latency=0.4, pool=PoolConfig(calls_per_actor=8))
    summary = run_pass(spec(engine), run, quiet(rows_per_checkpoint=50))
    print(f"mean rows in flight per actor: {summary.mean_in_flight} (8 calls of 50 rows, 0.4 s latency)")
    assert summary.mean_in_flight >= 60


def durable_blocks(site: Site) -> int:
    """How many blocks of ``generate`` a later attempt would not do again."""
    found = (site.folder / "work" / "generate-generator" / "checkpoint").glob("*.parquet")
    return sum(PENDING_CHECKPOINT_SUFFIX not in path.name for path in found)


def log_lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@on_ray
def test_sigkill_on_the_way_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The driver is killed in the midst of generate; the same command gives the table of an undisturbed run."""
    n, k, c = 320, 4, 4
    prompts = harness.write_prompts(tmp_path / "prompts.jsonl", n)
    killed, whole = (Site("generate", tmp_path / name, prompts) for name in ("killed", "whole"))
    log = tmp_path / "calls.log"
    logged = f"engines.generator.log={log}"
    process = killed.process(logged, "engines.generator.latency=0.6", f"engines.generator.pool.calls_per_actor={c}")
    # Ray needs a process of its own for the first write, which takes seconds on a slow machine.
    wait_for(lambda: process.poll() is not None or (begun(log) >= n // 2 and durable_blocks(killed) > 0))
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(harness.no_worker_left)  # the cluster ends the dead driver's actors
    at_kill = log_lines(log)
    assert killed.run.marker("candidates") is None

    assert killed.start(logged) == 0
    with inprocess.without_ray():
        assert whole.start() == 0
    assert len(killed.rows()) == n
    assert killed.rows() == whole.rows()

    marker = killed.run.marker("candidates")
    assert marker is not None
    durable = marker["summary"]["resumed"]
    assert (marker["attempts"], marker["summary"]["restarts"]) == (2, 0)
    assert durable > 0
    # Each row makes two requests. A row is done twice when it had begun, and its block was not durable, at the kill.
    times = Counter(line[1] for line in log_lines(log) if line[2] == "begin")
    twice = sum(count > 2 for count in times.values())
    assert len(times) == n
    position = {str(derive_seed(f"user: question {i}")): i for i in range(n)}
    ended = Counter(line[1] for line in at_kill if line[2] == "end")
    blocks_begun = {position[line[1]] // k for line in at_kill}
    blocks_ended = {b for b in blocks_begun if all(ended[h] == 2 for h, i in position.items() if i // k == b)}
    in_work, waiting = len(blocks_begun - blocks_ended), len(blocks_ended) - durable // k
    print(
        f"rows done twice: {twice} of {n}: {in_work} blocks of {k} in work (at most c = {c}), "
        f"{waiting} awaiting their write"
    )
    assert in_work <= c
    assert twice <= (c + waiting) * k


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


def test_block_and_pool_sizes() -> None:
    default = ExecutionConfig()
    assert [rows_per_block(n, default) for n in (14, 1_750, 5_000, 300_000, 10_000_000)] == [4, 7, 16, 300, 2000]
    assert [rows_per_block(n, default, engine=False) for n in (14, 5_000, 300_000, 10_000_000)] == [16, 20, 300, 2000]
    assert rows_per_block(14, ExecutionConfig(rows_per_checkpoint=7)) == 7
    engine = DummyEngineConfig()
    for k in (4, 50, 2000):
        assert calls_per_actor(k, 5, engine, engine.pool) * k * 5 >= 8 * engine.max_requests()
    large = replace(engine, slots=256)
    assert calls_per_actor(4, 1, large, large.pool) * 4 >= 4 * 256
    assert calls_per_actor(4, 1, replace(engine, slots=4096), PoolConfig()) == 256
    assert calls_per_actor(4, 1, None, PoolConfig()) == 1
    assert calls_per_actor(4, 1, engine, PoolConfig(calls_per_actor=3)) == 3


def test_a_pass_without_an_engine_gets_more_actors_as_far_as_it_has_blocks_and_the_cluster_room() -> None:
    default = ExecutionConfig()
    assert [cpu_pool(blocks, 64, 64, default).size for blocks in (1, 31, 32, 250, 5_000)] == [1, 1, 2, 15, 32]
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
    monkeypatch.setattr("pipeline.execution.hosting.cluster_processors", lambda: (4.0, 8.0))
    run = run_with_prompts(tmp_path, 160)
    slow = PassSpec("slow", "select", "prompts", "selections", [Slow()])
    summary = run_pass(slow, run, quiet(rows_per_checkpoint=4, cpu_workers=wanted))
    assert (summary.rows, summary.failed, summary.restarts) == (160, 0, 0)
    assert summary.workers == 2
    assert [r["prompt_id"] for r in rows_of(run, "selections", "prompt_id")] == [f"p{i}" for i in range(160)]


@without_ray
def test_lost_rows_are_noticed(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 8)
    target = spec(DummyEngineConfig(model="d"))
    run_pass(target, run, quiet())
    file = run.data_files("candidates")[0]
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(LemonpressError, match="8 rows went in, 7 came out"):
        summarise(target, run, run.data_files("candidates"), 8)
    assert isinstance(PassSummary("x", 1), PassSummary)


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
    marker = run.marker("candidates")
    assert marker is not None
    assert marker["pass"] == "generate-second"


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
