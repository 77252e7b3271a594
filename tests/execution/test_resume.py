"""Extending a finished run, refusing to mix, planning once, ending: without Ray, with the dummy engine."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.errors import InputError, ResumeError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.jobs import generate, judge, select
from pipeline.jobs import run as run_job
from pipeline.prompts.sources import read_prompts
from tests.conftest import jsonl, rows_of
from tests.inprocess import without_ray

pytestmark = pytest.mark.usefixtures("no_ray")


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


def test_a_set_that_was_drawn_anew_is_asked_about_anew(tmp_path: Path) -> None:
    """What the reward model said of a text holds where the set grew, not where others stand in its place."""
    requests = Requests(tmp_path, "generator", "reward")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=1", *SELECTORS, *requests.words()]
    words += ["sampling.confidence_tokens=5", "selectors.judge=null", "selectors.chops=null", f"out={tmp_path / 'run'}"]
    run = RunFolder(str(tmp_path / "run"))

    def sampled(config: Config) -> None:
        for job in (generate, select):
            job.run(config)

    sampled(load_config([*words, "sampling.n=3"]))
    requests.new()
    sampled(load_config([*words, "sampling.n=5", "sampling.temperature=0.9", "resume=anew"]))
    rows = rows_of(run, "selections", "candidates", "scores")
    assert requests.new()["reward", "reward"] == texts_of(rows, "hedged")
    sampled(load_config([*words, "sampling.n=7", "sampling.temperature=0.9"]))
    rows = rows_of(run, "selections", "candidates", "scores")
    assert_values_fit(rows)
    assert requests.new()["reward", "reward"] == texts_of(rows, "hedged")  # two kinds of sets were there: not trusted


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
    new = [
        {c["text"] for c in now["candidates"]} - {c["text"] for c in old["candidates"]}
        for old, now in zip(first, grown, strict=True)
    ]
    assert counted["reward", "reward"] == sum(map(len, new)) > 0  # selected from again, asked about what is new
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


class Killed(BaseException):
    """Ends the process, as far as the code under test can tell."""


def kill(*_: Any, **__: Any) -> None:
    raise Killed


def test_killed_at_any_moment_of_its_end_the_table_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its last row: before and amid the records; it is never half a table, and nothing is asked again."""
    requests = Requests(tmp_path, "generator")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=2", *requests.words()]
    config = load_config([*words, f"out={tmp_path / 'run'}"])
    run = RunFolder(config.out)
    write = RunFolder.write_json
    for last in ("_state.json", "_files.json", "_complete.json"):

        def instead(folder: RunFolder, value: Any, *parts: str, last: str = last) -> str:
            if parts[0] == "candidates" and parts[-1] == last:
                raise Killed
            return write(folder, value, *parts)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(RunFolder, "write_json", instead)
            generate.run(config)
        with pytest.raises(UnfinishedTableError):
            run.dataset("candidates")
    assert requests.new() == {("generator", "generate"): 14 * 2}
    generate.run(config)
    assert requests.new() == {}
    assert [len(r["candidates"]) for r in rows_of(run, "candidates", "candidates")] == [5] * 14
    assert not run.exists("work", "generate-generator")


def test_other_configs_are_refused_or_made_anew_beside_what_is_there(tmp_path: Path) -> None:
    """Another config's work is refused, half-done or finished; ``resume=anew`` makes it again, with what depends."""
    requests = Requests(tmp_path, "generator", "reward")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=2", "prompts.shard_rows=8", "sampling.n=2"]
    words += [*requests.words(), f"out={tmp_path / 'run'}", *SELECTORS, "selectors.chops=null"]
    run = RunFolder(str(tmp_path / "run"))
    with without_ray(kill), pytest.raises(Killed):  # after the first of two shards
        generate.run(load_config(words))
    kept, made = run.read_text("config.yaml"), requests.new()
    assert made == {("generator", "generate"): 8 * 2}
    difference = r'-\s+"temperature": 0.7\D+\n\+\s+"temperature": 0.9(.|\n)*out=(.|\n)*resume=anew'
    with pytest.raises(ResumeError, match=difference):
        generate.run(load_config([*words, "sampling.temperature=0.9"]))
    assert run.read_text("config.yaml") == kept
    generate.run(load_config(words))
    select.run(load_config(words))
    first = rows_of(run, "selections", "candidates", "selections")
    assert requests.new()["generator", "generate"] == 6 * 2

    with pytest.raises(ResumeError, match=r"generate:hedged(.|\n)*-\s+\"temperature\": 0.7(.|\n)*anew"):
        generate.run(load_config([*words, "sampling.temperature=0.9"]))
    generate.run(load_config([*words, "sampling.temperature=0.9", "resume=anew"]))
    assert "resume: check" in (run.read_text("config.yaml") or "")
    assert requests.new() == {("generator", "generate"): 14 * 2}
    assert rows_of(run, "selections", "candidates", "selections") == first  # the table before is whole, as it was
    generate.run(load_config([*words, "sampling.temperature=0.9"]))  # once is enough
    select.run(load_config([*words, "sampling.temperature=0.9"]))
    made = requests.new()
    rows = rows_of(run, "selections", "candidates", "scores", "selections")
    assert {c["temperature"] for r in rows for c in r["candidates"] if c["origin"] == "sample"} == {0.9}
    assert made["reward", "reward"] == texts_of(rows, "hedged")  # what depends on it is made again
    assert all(len(r["candidates"]) == 2 for r in rows)
    assert {s["method"] for r in rows for s in r["selections"]} == {s["method"] for r in first for s in r["selections"]}
    assert run.subfolders("candidates") == ["generate-generator", "generate-generator-2"]


def test_a_run_is_planned_once_and_loads_each_engine_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neighbours on one engine share a pass, whatever their jobs; the plan is printed before anything loads."""
    requests = Requests(tmp_path, "generator", "reward", "judge")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=2", *requests.words()]
    config = load_config([*words, f"out={tmp_path / 'run'}"])
    run_job.make(read(config))
    said = capsys.readouterr().out
    plan = [line for line in said.splitlines() if line.startswith("pass ")]
    assert [re.search(r"\((\w+)\): 14 rows", line)[1] for line in plan] == ["generator", "reward", "judge"]  # type: ignore[index]
    assert "generate-generator" in plan[0] and "select-judge" in plan[2] and "judge-judge" in plan[2]
    assert said.index(plan[2]) < said.index("placement (run)")
    assert requests.new()
    run_job.make(config)
    assert requests.new() == {} and "pass 1 of" not in capsys.readouterr().out
    apart = load_config([*words, f"out={tmp_path / 'apart'}"])
    run_jobs(read(apart))
    columns = ("prompt_id", "candidates", "scores", "selections", "games", "errors")
    one, other = (plain(rows_of(RunFolder(each.out), "games", *columns)) for each in (config, apart))
    assert one == other


def read(config: Config) -> Config:
    read_prompts(config.prompts, RunFolder(config.out))
    return config


def test_lost_shards_are_made_again_and_damaged_ones_refused(tmp_path: Path) -> None:
    requests = Requests(tmp_path, "generator")
    words = ["dummy", "execution.progress=false", "prompts.limit_clusters=2", "prompts.shard_rows=4"]
    config = load_config([*words, *requests.words(), f"out={tmp_path / 'run'}"])
    generate.run(config)
    before = rows_of(RunFolder(config.out), "candidates", "candidates")
    requests.new()
    Path(config.out, "candidates", "generate-generator", "00001.parquet").unlink()
    with pytest.raises(InputError, match=r"00001\.parquet is missing, with 4 rows"):
        RunFolder(config.out).dataset("candidates")
    generate.run(config)
    assert requests.new() == {("generator", "generate"): 4 * 2}
    assert rows_of(RunFolder(config.out), "candidates", "candidates") == before
