"""Adaptive N in a whole job (without Ray, dummy engine): exact accounts, also after a kill, more prompts, refusals."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.jobs import generate, select
from pipeline.selection.best_of_n import BestOfN
from pipeline.selection.stage import SCORER
from tests.conftest import jsonl, rows_of
from tests.execution.test_resume import Killed, Requests
from tests.inprocess import without_ray

pytestmark = pytest.mark.usefixtures("no_ray")

HIGHEST = 1.0  # of rewards that are normal: four prompts in ten reach it with three candidates
ROUNDS = "adaptive: {by: best_of_n, first: 3, mean_n: 6}"
VOTED = "adaptive: {by: majority_vote, first: 4, tokens: 14, rounds: 3}"
REWARDED = [
    f"sampling={{kind: hedged, n: 12, max_tokens: 64, {ROUNDS}}}",
    "selectors=null",
    "selectors={best_of_n: {engine: reward, plans: [hedged]}, sample: {}}",
]
BOTH = [
    *REWARDED,
    f"plans.voted={{kind: single, engine: short, n: 10, max_tokens: 8, {VOTED}}}",
    "engines.short={kind: dummy, model: short, words: 1}",  # of 16 words: there are votes
    "tasks.translation.target_language=en",
    "selectors.majority_vote.plans=[voted]",
]


def words(folder: Path, prompts: Path, *more: str) -> list[str]:
    fixed = ["dummy", "prompts.kind=file", f"prompts.path={prompts}", "prompts.task=translation", "judge.engine=null"]
    return [*fixed, "execution.progress=false", "prompts.shard_rows=4", f"out={folder}", *more]


def write_prompts(path: Path, n: int) -> None:
    jsonl(path, *({"prompt": f"question {i}", "language": "de"} for i in range(n)))


def sizes(rows: list[dict[str, Any]], plan: str) -> list[int]:
    return [sum(c["plan"] == plan for c in row["candidates"]) for row in rows]


def assert_adds_up(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    """The manifest's account is what the table holds, counted here once more."""
    for plan, found in run.read_json("manifest.json")["adaptive"].items():
        mine = [c for row in rows for c in row["candidates"] if c["plan"] == plan]
        used = [u for row in rows for u in row["usage"] if u["stage"].startswith(f"generate:{plan}")]
        assert found["adds_up"] is True
        assert found["spent"] == sum(c["num_tokens"] for c in mine) == sum(u["completion_tokens"] for u in used)
        assert sum(r["candidates"] for r in found["rounds"]) == len(mine)
        assert {int(k): v for k, v in found["sizes"].items()} == dict(Counter(sizes(rows, plan)))
        by_stage = Counter[str]()
        for u in used:
            by_stage[u["stage"]] += u["completion_tokens"]
        stages = [f"generate:{plan}", *(f"generate:{plan}:{i + 2}" for i in range(len(found["rounds"]) - 1))]
        assert [r["tokens"] for r in found["rounds"]] == [by_stage[s] for s in stages]
        assert found["spent"] <= 1.1 * found["budget"]


def test_rounds_add_up_survive_a_kill_and_equal_a_uniform_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = tmp_path / "prompts.jsonl", RunFolder(str(tmp_path / "run"))
    requests = Requests(tmp_path, "generator", "reward")
    write_prompts(prompts, 24)
    mine = words(tmp_path / "run", prompts, *requests.words(), *REWARDED)
    monkeypatch.setattr(BestOfN, "highest", lambda _: HIGHEST)

    shards = count(1)  # six a pass: half of the second round's rows are stored

    def kill(_: int) -> None:
        if next(shards) == 15:
            raise Killed

    with without_ray(kill), pytest.raises(Killed):
        generate.run(load_config(mine))
    assert run.marker("candidates") is None
    (path,) = run.parquet_files("adaptive")
    decided, asked = Path(path).read_bytes(), requests.new()
    generate.run(load_config(mine))
    again = requests.new()
    assert Path(path).read_bytes() == decided
    rows = rows_of(run, "candidates", "prompt_id", "candidates", "scores", "usage", "errors")
    assert_adds_up(run, rows)
    assert "tokens spent" in capsys.readouterr().out
    counts = sizes(rows, "hedged")
    assert min(counts) == 3 < max(counts) <= 12 and len(rows) == 24
    known = [next(s["values"] for s in row["scores"] if s["scorer"].startswith(SCORER)) for row in rows]
    reached = [max(values[:3]) >= HIGHEST for values in known]
    assert 3 < sum(reached) < 21 and {n for n, there in zip(counts, reached, strict=True) if there} == {3}
    assert asked["generator", "generate"] == 24 * 2 + sum(n > 3 for n in counts[:12])
    assert again == {("generator", "generate"): sum(n > 3 for n in counts[12:])}
    assert not any(row["errors"] for row in rows)

    select.run(load_config(mine))
    texts = sum(len({c["text"] for c in row["candidates"]}) for row in rows)
    assert asked["reward", "reward"] + requests.new()["reward", "reward"] == texts  # none is scored twice

    whole = load_config([*words(tmp_path / "whole", prompts, *REWARDED), "sampling.adaptive.by=null"])
    generate.run(whole)
    for row, full in zip(rows, rows_of(RunFolder(whole.out), "candidates", "candidates"), strict=True):
        assert row["candidates"] == full["candidates"][: len(row["candidates"])]  # texts, seeds and all
        assert len(full["candidates"]) == 12


def test_two_plans_in_three_rounds_more_prompts_refusals_and_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By rewards and by votes at once; later prompts are decided about among themselves."""
    prompts, run = tmp_path / "prompts.jsonl", RunFolder(str(tmp_path / "run"))
    requests = Requests(tmp_path, "generator", "reward")
    write_prompts(prompts, 24)
    mine = words(tmp_path / "run", prompts, *requests.words(), *BOTH)
    generate.run(load_config(mine))
    rows = rows_of(run, "candidates", "prompt_id", "candidates", "scores", "usage", "errors")
    assert_adds_up(run, rows)
    assert len(set(sizes(rows, "voted"))) > 1 and 4 <= min(sizes(rows, "voted")) < max(sizes(rows, "voted")) <= 10
    requests.new()

    write_prompts(prompts, 30)
    generate.run(load_config(mine))
    more = rows_of(run, "candidates", "prompt_id", "candidates", "scores", "usage", "errors")
    assert [r["candidates"] for r in more[:24]] == [r["candidates"] for r in rows]
    assert len(more) == 30 and min(sizes(more[24:], "hedged")) >= 3
    assert_adds_up(run, more)
    assert requests.new()["generator", "generate"] == 6 * 2 + sum(n > 3 for n in sizes(more[24:], "hedged"))

    changed = ("mean_n=7", "rounds=3", "by=null")
    for word in ("sampling.n=13", *(f"sampling.adaptive.{word}" for word in changed)):
        with pytest.raises(ResumeError, match=r"another (config|budget)|drawn in rounds"):
            generate.run(load_config([*mine, word]))
    assert rows_of(run, "candidates", "candidates") == [
        {k: v for k, v in r.items() if k in ("row_id", "candidates")} for r in more
    ]
    select.run(load_config(mine))
    named = requests.words()  # a stored config may not name files that an engine writes
    code = main(["verify", run.name, "execution.progress=false", "verify.rows=4", *named])
    assert code == 0, capsys.readouterr().err


def test_rows_that_fail_get_no_more_and_are_kept(tmp_path: Path) -> None:
    """Refused requests, and prompts that cannot be scored, are rows of the table like all others."""
    prompts, run = tmp_path / "prompts.jsonl", RunFolder(str(tmp_path / "run"))
    write_prompts(prompts, 12)
    faults = ["engines.generator.fail=question [23]$", "engines.reward.fail=question [56]$"]
    generate.run(load_config([*words(tmp_path / "run", prompts), *faults, *REWARDED]))
    rows = rows_of(run, "candidates", "candidates", "usage", "errors")
    assert len(rows) == 12
    assert sizes(rows, "hedged")[3] == 3 == sizes(rows, "hedged")[5]
    assert all(c["error"] for c in rows[3]["candidates"]) and rows[3]["errors"]
    assert max(sizes(rows, "hedged")) > 3
    before = assert_adds_up_with_failures(run, rows)

    mended = [*words(tmp_path / "run", prompts), *REWARDED]
    assert main(["retry", run.name, "engines.generator.fail=null", "engines.reward.fail=null"]) == 0
    generate.run(load_config(mended))  # finished: it gives the account
    rows = rows_of(run, "candidates", "candidates", "usage", "errors")
    assert max(sizes(rows, "hedged")[2:7]) > 3 and not any(row["errors"] for row in rows)
    assert assert_adds_up_with_failures(run, rows) == pytest.approx(before, rel=0.15)  # not another third on top


def assert_adds_up_with_failures(run: RunFolder, rows: list[dict[str, Any]]) -> float:
    """Returns the budget."""
    found = run.read_json("manifest.json")["adaptive"]["hedged"]
    assert found["adds_up"] is True and found["lost"] == 0
    assert found["spent"] == sum(c["num_tokens"] or 0 for row in rows for c in row["candidates"])
    budget: float = found["budget"]
    return budget
