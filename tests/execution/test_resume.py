"""Extending a finished run, refusing to mix, and compaction: without Ray, with the dummy engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.config.sections import ExecutionConfig
from pipeline.core.errors import LemonpressError, ResumeError, UnfinishedTableError
from pipeline.core.folder import MARKER, RunFolder
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.execution import passes
from pipeline.execution.compact import compact, worth_compacting
from pipeline.execution.passes import PassSpec, run_pass
from pipeline.jobs import generate, judge, select
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests.conftest import jsonl, rows_of, run_with_prompts
from tests.inprocess import without_ray

pytestmark = pytest.mark.usefixtures("no_ray")

QUIET = ExecutionConfig(progress=False, rows_per_checkpoint=2)


class Requests:
    """Counts the requests that each engine of a run got since it was last asked, by kind."""

    def __init__(self, folder: Path, *engines: str) -> None:
        self.logs = {name: folder / f"{name}.log" for name in engines}
        self._seen: Counter[tuple[str, str]] = Counter()

    def words(self) -> list[str]:
        return [f"engines.{name}.log={path}" for name, path in self.logs.items()]

    def new(self) -> dict[tuple[str, str], int]:
        total: Counter[tuple[str, str]] = Counter()
        for name, path in self.logs.items():
            lines = path.read_text().splitlines() if path.exists() else []
            total.update((name, line.split()[0]) for line in lines if line.endswith("begin"))
        found, self._seen = total - self._seen, total
        return dict(found)


SELECTORS = ["selectors.random=null", "selectors.greedy=null", "selectors.judge=null"]


def run_jobs(config: Config) -> None:
    for job in (generate, select, judge):
        job.run(config)


def texts_of(rows: list[dict[str, Any]], plan: str) -> int:
    """Different texts per row, summed: what a reward model scores."""
    return sum(len({c["text"] for c in r["candidates"] if c["plan"] == plan}) for r in rows)


def assert_values_fit(rows: list[dict[str, Any]]) -> None:
    """Every candidate of every set has a value of every scorer, metrics included."""
    for r in rows:
        sizes = Counter(c["plan"] for c in r["candidates"])
        scorers = {s["scorer"] for s in r["scores"] if s["plan"] == "hedged"}
        assert {"metric:language", "self_certainty", "best_of_n"} <= scorers
        assert all(len(s["values"]) == sizes[s["plan"]] for s in r["scores"] if s["plan"] in sizes)
        assert {s["plan"] for s in r["scores"] if s["scorer"] == "metric:language"} == set(sizes)


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose nested lists are in a fixed order: extended tables append, and what was paid is counted elsewhere."""
    nested = ("candidates", "scores", "selections", "games", "errors")
    return [r | {name: sorted(r[name], key=repr) for name in nested} for r in rows]


def test_an_extended_run_equals_a_fresh_one_and_redoes_nothing(tmp_path: Path) -> None:
    """N, then a plan and a selector, then prompts are added; requests are counted at every step."""
    requests = Requests(tmp_path, "generator", "reward", "judge")
    prompts = tmp_path / "prompts.jsonl"
    texts = [{"prompt": f"question {i}", "language": "en"} for i in range(12)]
    jsonl(prompts, *texts[:9])
    words = ["dummy", "execution.progress=false", "prompts.kind=file", f"prompts.path={prompts}", *SELECTORS]
    words += [*requests.words(), "selectors.chops=null", "judge.systems=[hedged/mbr,hedged/likelihood]"]
    words += ["judge.opponent=hedged/sample", "sampling.confidence_tokens=5"]
    out, run = [f"out={tmp_path / 'run'}"], RunFolder(str(tmp_path / "run"))

    run_jobs(load_config([*words, *out, "sampling.n=3"]))
    first = rows_of(run, "games", "candidates", "selections")
    counted = requests.new()
    assert counted["generator", "generate"] == 9 * 2
    assert counted["reward", "reward"] == texts_of(first, "hedged")
    run_jobs(load_config([*words, *out, "sampling.n=3"]))
    assert requests.new() == {}

    run_jobs(load_config([*words, *out, "sampling.n=5"]))
    counted = requests.new()
    assert counted["generator", "generate"] == 9  # one request for the two candidates more
    grown = rows_of(run, "games", "candidates", "scores")
    assert_values_fit(grown)
    assert counted["reward", "reward"] == texts_of(grown, "hedged")  # a set that grew is selected from again
    for before, now in zip(first, grown, strict=True):
        assert now["candidates"][:3] == before["candidates"]
        assert len(now["candidates"]) == 5

    words += ["plans.hot={kind: single, n: 2, temperature: 1.0, max_tokens: 64}", "selectors.chops={engine: judge}"]
    words[words.index("selectors.chops=null")] = "selectors.chops.plans=[hedged]"
    words[words.index("judge.systems=[hedged/mbr,hedged/likelihood]")] = (
        "judge.systems=[hedged/mbr,hedged/likelihood,hedged/chops]"
    )
    before_games = {i: r["games"] for i, r in enumerate(rows_of(run, "games", "games"))}
    run_jobs(load_config([*words, *out]))
    counted = requests.new()
    assert counted["generator", "generate"] == 9  # the new plan's
    rows = rows_of(run, "games", "games", "candidates", "scores", "usage")
    assert_values_fit(rows)
    assert counted["reward", "reward"] == texts_of(rows, "hot")  # the new set's, and no other's
    new_games = {i: [g for g in r["games"] if g not in before_games[i]] for i, r in enumerate(rows)}
    assert {g["system"] for games in new_games.values() for g in games} == {"hedged/chops"}
    chops = sum(u["requests"] for r in rows for u in r["usage"] if u["stage"] == "select:chops")
    judged = sum(g["reason"] is None for games in new_games.values() for g in games)
    assert judged - 9 * 2 <= counted["judge", "label_probs"] - chops <= judged  # pairs that are known are judged again

    jsonl(prompts, *texts)
    run_jobs(load_config([*words, *out]))
    counted = requests.new()
    assert counted["generator", "generate"] == 3 * 3
    rows = rows_of(run, "games", "candidates", "usage")
    paid = [sum(u["requests"] for u in r["usage"] if u["job"] == "generate") for r in rows]
    assert paid == [2 + 1 + 1] * 9 + [2 + 1] * 3  # what was paid in all, once
    assert counted["reward", "reward"] == texts_of(rows[9:], "hedged") + texts_of(rows[9:], "hot")
    seen = requests.logs["generator"].read_text().splitlines()
    assert {line.split()[1] for line in seen[-2 * 9 :]}.isdisjoint({line.split()[1] for line in seen[: -2 * 9]})

    whole = load_config([*words, f"out={tmp_path / 'whole'}"])
    run_jobs(whole)
    columns = ("prompt_id", "candidates", "scores", "selections", "games", "errors")
    assert plain(rows_of(run, "games", *columns)) == plain(rows_of(RunFolder(whole.out), "games", *columns))
    assert not run.exists("work") or not run.subfolders("work")


def stage(n: int = 3, seed: int = 1) -> GenerateStage:
    return GenerateStage("hedged", Hedged(n=n, max_tokens=16), seed)


def spec(log: Path, seed: int = 1, force: bool = False) -> PassSpec:
    engine = DummyEngineConfig(model="d", log=str(log))
    return PassSpec(
        "generate", "generate", "prompts", "candidates", [stage(seed=seed)], engine, 5, {"seed": seed}, force=force
    )


class Killed(BaseException):
    """Ends the process, as far as the code under test can tell."""


def kill(*_: Any, **__: Any) -> None:
    raise Killed


def half_compacted(files: list[str], target: str, filesystem: Any) -> int:
    compact(files[:2], target, filesystem)
    raise Killed


KILLS: list[tuple[Any, str, Callable[..., Any]]] = [
    (passes, "summarise", kill),
    (passes, "compact", half_compacted),
    (RunFolder, "write_json", kill),
    (RunFolder, "tidy", kill),
]
"""Where a pass is killed after its last row: before and during compaction, before and after the switch."""


def test_killed_at_any_moment_of_compaction_the_table_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass is killed at one moment after the other; it is never a half table, and no request is made again."""
    log, run = tmp_path / "calls.log", run_with_prompts(tmp_path / "run", 12)

    def finish_but_for(owner: Any, name: str, instead: Callable[..., Any]) -> None:
        if name == "write_json":  # the state is written before; only the marker's write is the switch
            write = RunFolder.write_json
            instead = lambda r, value, *parts: kill() if parts[-1] == MARKER else write(r, value, *parts)  # noqa: E731
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, instead)
            run_pass(spec(log), run, QUIET)

    for owner, name, instead in KILLS[:3]:
        finish_but_for(owner, name, instead)
        with pytest.raises(UnfinishedTableError):
            run.dataset("candidates")
        assert sum(pads.dataset(f).count_rows() for f in run.block_files("candidates")) == 12
    calls = log.read_text()
    assert len(calls.splitlines()) == 12 * 2 * 2
    finish_but_for(*KILLS[3])
    whole = rows_of(run, "candidates", "prompt_id", "candidates", "usage", "errors")
    assert [r["prompt_id"] for r in whole] == [f"p{i}" for i in range(12)]
    assert run.block_files("candidates")  # not tidied yet

    assert run_pass(spec(log), run, QUIET).skipped
    run.tidy("candidates")
    assert run.subfolders("candidates") == ["v1"]
    assert [Path(f).name for f in run.data_files("candidates")] == ["part-00000.parquet"]
    assert rows_of(run, "candidates", "prompt_id", "candidates", "usage", "errors") == whole
    assert run.dataset("candidates").to_table()["row_id"].to_pylist() == list(range(12))
    assert log.read_text() == calls


def test_other_configs_are_refused_or_kept_by_force_and_recorded(tmp_path: Path) -> None:
    """Work of another config is refused, half-done or finished; ``resume=force`` keeps it, marked."""
    requests = Requests(tmp_path, "generator")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=1", "sampling.n=2", *requests.words()]
    words += [f"out={tmp_path / 'run'}"]
    run = RunFolder(str(tmp_path / "run"))
    with without_ray(kill), pytest.raises(Killed):  # after the first of two blocks
        generate.run(load_config(words))
    kept, made = run.read_text("config.yaml"), requests.new()
    assert made == {("generator", "generate"): 4 * 2}
    difference = r'-\s+"temperature": 0.7\D+\n\+\s+"temperature": 0.9(.|\n)*out=(.|\n)*resume=force(.|\n)*or remove'
    with pytest.raises(ResumeError, match=difference):
        generate.run(load_config([*words, "sampling.temperature=0.9"]))
    assert run.read_text("config.yaml") == kept
    generate.run(load_config([*words, "sampling.temperature=0.9", "resume=force"]))
    assert requests.new() == {("generator", "generate"): 3 * 2}
    marker = run.marker("candidates")
    assert marker and len(marker["mixed"]) == 1 and '"temperature": 0.9' in marker["mixed"][0]
    assert "resume: check" in (run.read_text("config.yaml") or "")

    with pytest.raises(ResumeError, match=r"generate:hedged(.|\n)*-\s+\"seed\": 1\D+\n\+\s+\"seed\": 5(.|\n)*force"):
        generate.run(load_config([*words, "sampling.temperature=0.9", "seed=5"]))
    generate.run(load_config([*words, "sampling.temperature=0.9", "seed=5", "resume=force"]))
    generate.run(load_config([*words, "sampling.temperature=0.9", "seed=5"]))  # once is enough
    marker = run.marker("candidates")
    assert marker and len(marker["mixed"]) == 2 and marker["rows"] == 7
    assert requests.new() == {}

    select.run(load_config([*words, *SELECTORS, "selectors.chops=null", "sampling.temperature=0.9", "seed=5"]))
    after = run.marker("selections")
    assert after and after["mixed"] == marker["mixed"]  # later tables are made of mixed ones
    assert run.read_json("manifest.json")["mixed"] == dict.fromkeys(("candidates", "selections"), marker["mixed"])


def test_a_table_and_a_half_done_pass_of_earlier_versions_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks in the table's own folder and markers without versions are finished, and extended."""
    requests = Requests(tmp_path, "generator")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=1", *requests.words()]
    words += [f"out={tmp_path / 'run'}"]
    run = RunFolder(str(tmp_path / "run"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(passes, "finish", kill)
        generate.run(load_config([*words, "sampling.n=2"]))
    for path in run.block_files("candidates"):
        run.fs.move(path, run.path("candidates", Path(path).name))
    run.remove("candidates", "blocks-1")
    state = run.read_json("work", "generate-generator", "state.json")
    old = {k: state[k] for k in ("fingerprint", "seconds", "attempts")}
    run.write_json(old, "work", "generate-generator", "state.json")
    generate.run(load_config([*words, "sampling.n=2"]))
    assert requests.new() == {("generator", "generate"): 7 * 2}
    assert len(rows_of(run, "candidates")) == 7 and not run.parquet_files("candidates")

    marker = run.marker("candidates")
    assert marker is not None
    for path in run.data_files("candidates"):
        run.fs.move(path, run.path("candidates", Path(path).name))
    names = ("pass", "rows", "schema", "fingerprint", "fingerprint_hash", "lemonpress", "attempts", "summary")
    run.write_json({name: marker[name] for name in names}, "candidates", MARKER)
    generate.run(load_config([*words, "sampling.n=2"]))
    assert requests.new() == {}
    generate.run(load_config([*words, "sampling.n=4"]))
    assert requests.new() == {("generator", "generate"): 7}
    assert {len(r["candidates"]) for r in rows_of(run, "candidates", "candidates")} == {4}
    assert run.subfolders("candidates") == ["v2"] and not run.parquet_files("candidates")


def test_compaction_keeps_rows_and_order(tmp_path: Path) -> None:
    """Files are joined in the order of their rows; a file with other columns stops it."""
    run = run_with_prompts(tmp_path, 40)
    whole = run.dataset("prompts").to_table()
    run.make("small")
    for start in (30, 0, 10, 20):
        pq.write_table(whole.slice(start, 10), run.path("small", f"{99 - start}.parquet"))
    files = run.parquet_files("small")
    assert worth_compacting(files, run.fs) and not worth_compacting(files[:1], run.fs)
    assert compact(files, run.make("large"), run.fs) == 40
    large = run.parquet_files("large")
    assert len(large) == 1
    assert pads.dataset(large).to_table().equals(whole)
    assert b"lemonpress" in pads.dataset(large).schema.metadata
    pq.write_table(whole.drop(["errors"]), run.path("small", "other.parquet"))
    with pytest.raises(LemonpressError, match="columns differ"):
        compact(run.parquet_files("small"), run.make("bad"), run.fs)
