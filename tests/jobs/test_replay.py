"""Old candidates, new selectors: a run's pools in one table, on which selectors are tried without Ray or a model."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, InputError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.row import Candidate, Row, Score
from pipeline.jobs.replay import job as replay
from pipeline.jobs.replay.compare import best_on_development
from pipeline.jobs.replay.players import Player, choose, first_candidates, players
from pipeline.jobs.replay.table import Pools, ReplayTable, place_of
from pipeline.selection.base import Pool
from pipeline.selection.mbr import MBR
from pipeline.tasks.utilities import chrf_matrix
from tests.conftest import ROOT, rows_of
from tests.runs import REFERENCE
from tests.selection.test_own_selector import SOURCE

LARGEST = {"hedged": 6, "warm": 5}
"""Set -> its candidates."""


def found(result: Any, **wanted: Any) -> dict[str, Any]:
    wanted = {"plan": "hedged", **wanted}
    (row,) = [r for r in result.to_pylist() if all(r[k] == v for k, v in wanted.items())]
    return dict(row)


class Replayed(NamedTuple):
    """Attributes: table: the file of pools; result: what ``replay.run`` gave; shown: what it printed."""

    table: Path
    result: pa.Table
    shown: str


@pytest.fixture(scope="module")
def replayed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """The finished run, replayed once."""
    table = tmp_path_factory.mktemp("replayed") / "t.parquet"
    words = [f"replay.table={table}", "replay.n=[2,4]", "winrate.draws=200"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        result = replay.run(str(finished), words)
    return Replayed(table, result, shown.getvalue())


def test_replayed_selectors_choose_as_the_run_did(finished_run: RunFolder, replayed: Replayed) -> None:
    result = replayed.result
    whole = [r for r in result.to_pylist() if r["n"] == LARGEST[r["plan"]]]
    cut = [r for r in result.to_pylist() if r["n"] != LARGEST[r["plan"]]]
    names = {r["selector"] for r in whole}
    assert names == {
        "sample",
        "random",
        "greedy",
        "likelihood",
        "mbr",
        "best_of_n",
        "judge",
        "vote",
        "weighted",
        "bleu",
    }
    assert {r["agreement"] for r in whole} == {1.0}
    assert {r["agreement"] for r in cut} == {None}
    scored = {(r["task"], r["metric"]) for r in whole}
    assert scored == {("open", "win"), ("translation", "win"), ("translation", "chrf")}
    assert "chops: left out: chops needs the engine 'judge'" in replayed.shown
    # the means are those that winrate computes
    assert main(["winrate", f"out={finished_run.name}", "winrate.draws=200"]) == 0
    scores = pq.read_table(Path(finished_run.name, "scores.parquet")).to_pylist()
    for name in sorted(names - {"sample"}):
        wanted = (f"hedged/{name}", "chrf", "all")
        (theirs,) = [r for r in scores if (r["system"], r["metric"], r["language"]) == wanted]
        mine = found(result, selector=name, n=6, metric="chrf")
        for key in ("mean", "difference"):
            assert mine[key] == pytest.approx(theirs[key])
        for low, high in (("ci_low", "ci_high"), ("difference_low", "difference_high")):  # wider: all hold together
            assert mine[low] <= theirs[low] + 1e-9 and mine[high] >= theirs[high] - 1e-9
    best = found(result, selector="best_of_n", n=6, metric="chrf")
    half = found(result, selector="best_of_n", n=2, metric="chrf")
    assert best["selector_tokens"] > half["selector_tokens"] > 0
    assert found(result, selector="mbr", n=6, metric="chrf")["selector_tokens"] == 0
    tokens = [found(result, selector="mbr", n=n, metric="chrf")["sampling_tokens"] for n in (2, 4, 6)]
    assert tokens == sorted(tokens) and tokens[0] > 0


def test_a_new_selector_on_a_table_that_was_moved_without_ray_or_a_model(replayed: Replayed, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shutil.copy(replayed.table, tmp_path / "b" / "pools.parquet")
    (tmp_path / "replay_shortest.py").write_text(SOURCE.replace('"shortest"', '"replay_shortest"'))
    code = (
        "import sys; from pipeline.cli import main; "
        "code = main(['replay', 'b/pools.parquet', 'modules=[replay_shortest]', 'replay.metrics=[chrf]', "
        "'selectors.mine={kind: replay_shortest}', 'winrate.draws=50']); "
        "heavy = {'ray', 'vllm', 'torch'} & set(sys.modules); print('heavy:', sorted(heavy)); sys.exit(code)"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "hedged/mine" in done.stdout and "heavy: []" in done.stdout
    result = pq.read_table(tmp_path / "b" / "replay_scores.parquet")
    table = ReplayTable(*place_of(str(tmp_path / "b" / "pools.parquet")))
    shortest = [
        min((c for c in p.row.candidates[:2]), key=lambda c: len(c.text or "")) for p in table if p.row.task != "open"
    ]
    values = [chrf_matrix([c.text or ""], [REFERENCE])[0][0] / 100 for c in shortest]
    mine = found(result, selector="mine", n=2)
    assert mine["mean"] == pytest.approx(np.mean(values), abs=0.02)  # ties between lengths are broken by a hash
    assert mine["agreement"] is None


def test_the_table_holds_pools_utilities_and_candidate_games(finished: Path, replayed: Replayed) -> None:
    rows = {p.row.prompt_id: p for p in ReplayTable(*place_of(str(replayed.table)))}
    before = rows_of(RunFolder(str(finished)), "games", "prompt_id", "candidates", "scores", "games", "usage")
    assert len(rows) == len(before) == 16
    for row in before:
        pools = rows[row["prompt_id"]]
        assert [vars(c) for c in pools.row.candidates] == row["candidates"]
        assert [vars(s) for s in pools.row.scores] == row["scores"]
        for plan, n in LARGEST.items():
            own = [c["text"] for c in row["candidates"] if c["plan"] == plan]
            assert pools.matrices[plan, "chrf"] == chrf_matrix(own, own)
            assert len(own) == n and (plan, "bleu") in pools.matrices
        played = {g.system for g in pools.row.games}
        assert played <= {f"{plan}#{i}" for plan, n in LARGEST.items() for i in range(n)}
        assert {name.partition("#")[0] for name in played} == set(LARGEST)


def test_what_replay_refuses(
    finished: Path, replayed: Replayed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = f"replay.table={tmp_path / 't.parquet'}"
    with pytest.raises(ConfigError, match=r"selectors\.new: chops needs the engine 'judge'.*use select"):
        replay.run(str(finished), [table, "selectors.new={kind: chops, engine: judge}"])
    with pytest.raises(ConfigError, match=r"selectors\.judge: judge needs the engine 'generator'"):
        replay.run(str(finished), [table, "selectors.judge.engine=generator"])
    with pytest.raises(InputError, match="no answer can be scored"):
        replay.run(str(replayed.table), ["replay.metrics=[none]"])
    with pytest.raises(InputError, match="no replay table"):
        replay.run(str(RunFolder(str(finished)).files("selections")[0]))
    with pytest.raises(ConfigError, match="no such run folder"):
        replay.run(str(tmp_path / "none"))
    assert main(["replay", str(finished), "replay.n=[0]"]) == 2
    assert "replay.n[0]: must be at least 1" in capsys.readouterr().err
    RunFolder(str(tmp_path / "new")).write_text((finished / "config.yaml").read_text(), "config.yaml")
    with pytest.raises(UnfinishedTableError, match="run select"):
        replay.run(str(tmp_path / "new"))


def test_the_first_n_of_one_set() -> None:
    candidates = [Candidate(text=str(i), plan=plan) for i in range(3) for plan in ("a", "b")]
    row = Row(
        0, "p", candidates=candidates, scores=[Score("s", "a", [1.0, 2.0, 3.0]), Score("s", "b", [1.0, 2.0, 3.0])]
    )
    cut = first_candidates(row, "a", 2)
    assert [c.text for c in cut.plan("a")] == ["0", "1"] and len(cut.plan("b")) == 3
    assert [len(s.values) for s in cut.scores] == [2, 3] and len(row.candidates) == 6


def test_utilities_are_looked_up_and_new_texts_computed() -> None:
    texts: list[str | None] = ["one two", None, "one three", "four"]
    row = Row(0, "p", candidates=[Candidate(text=t, plan="a") for t in texts])
    matrix: list[list[float | None]] = [[0.0] * 4 for _ in texts]
    matrix[3][0] = matrix[3][2] = 99.0  # not the real values: so it is seen that they are used
    pools = Pools(row, {("a", "chrf"): matrix})
    config = load_config(["dummy"])
    player = Player("mbr", MBR(), ("a",))
    assert asyncio.run(choose(player, pools, "a", 4, config)) == (3, "four")
    utility = pools.utilities("a")["chrf"]
    assert utility(["one two"], ["one six"], None) == chrf_matrix(["one two"], ["one six"])


def test_ties_between_stored_values_are_broken_as_in_the_run() -> None:
    config = load_config(["dummy"])
    found, _ = players(config, config)
    (player,) = [p for p in found if p.name == "judge"]
    mine, theirs = [], []
    for i in range(40):
        candidates = [Candidate(text=text, plan="hedged") for text in "abcd"]
        row = Row(0, f"p{i}", candidates=candidates, scores=[Score("judge", "hedged", [0.5, 0.9, 0.9, 0.9])])
        mine.append(asyncio.run(choose(player, Pools(row, {}), "hedged", 4, config))[0])
        theirs.append(
            config.selectors["judge"].best(Pool(row, "hedged", candidates, config.seed), row.scores[0].values)
        )
    assert mine == [choice.index for choice in theirs]
    assert set(mine) == {1, 2, 3}


def test_a_split_chooses_on_some_clusters_and_scores_on_the_others(replayed: Replayed) -> None:
    """The best of many selectors looks better than it is on the data that chose it."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        result = replay.run(str(replayed.table), ["replay.split=0.5", "replay.n=[2]", "winrate.draws=100"])
    parts = {part: [r for r in result.to_pylist() if r["part"] == part] for part in ("development", "held_out")}
    assert all(parts.values()) and len(parts["development"]) + len(parts["held_out"]) == result.num_rows
    whole = {(r["plan"], r["selector"], r["n"]): r["n_prompts"] for r in replayed.result.to_pylist()}
    halves = [{(r["plan"], r["selector"], r["n"]): r["n_prompts"] for r in rows} for rows in parts.values()]
    assert all(halves[0][key] + halves[1][key] == whole[key] for key in halves[0] if key in whole)
    assert "best on the development clusters" in shown.getvalue() and "replay.split" in replayed.shown
    with pytest.raises(ConfigError, match=r"replay\.split"):
        replay.run(str(replayed.table), ["replay.split=1.5"])


def test_intervals_of_a_comparison_hold_together(replayed: Replayed) -> None:
    rows = [r for r in replayed.result.to_pylist() if r["difference"] is not None]
    assert {r["part"] for r in rows} == {"all"}
    together = Counter((r["task"], r["metric"]) for r in rows)
    assert all(f"|simultaneous:{together[r['task'], r['metric']]}|" in r["signature"] for r in rows)


def test_the_choice_is_the_best_on_development_and_never_the_oracle() -> None:
    def line(selector: str, part: str, difference: float) -> Any:
        keys = {"plan": "p", "task": "t", "metric": "m", "n": 4}
        return SimpleNamespace(**keys, selector=selector, part=part, difference=difference)

    lines = [line("oracle", "development", 0.5), line("a", "development", 0.2), line("b", "development", 0.1)]
    lines += [line("oracle", "held_out", 0.5), line("a", "held_out", -0.1), line("b", "held_out", 0.1)]
    ((best, held_out),) = best_on_development(lines, ["oracle"])
    assert (best.selector, best.difference, held_out.difference) == ("a", 0.2, -0.1)
