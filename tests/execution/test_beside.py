"""Passes whose engines work side by side: the same rows as one after the other, sooner, and as safe."""

from __future__ import annotations

import re
import signal
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.config.sections import NodeGroup
from pipeline.core.errors import UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.engines.base import PoolConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.execution.beside import side_by_side
from pipeline.execution.placement import fit_at_once
from pipeline.jobs import generate, judge, select
from tests import inprocess
from tests.conftest import rows_of
from tests.execution import harness
from tests.execution.harness import ROWS, Site, begun, wait_for

REWARD = "selectors.best_of_n={kind: best_of_n, engine: reward}"
SIDE_BY_SIDE = "execution.side_by_side=true"


def pool(size: int, gpus: float, cpus: float = 1.0) -> DummyEngineConfig:
    return DummyEngineConfig(model="d", pool=PoolConfig(size=size, num_gpus=gpus, num_cpus=cpus))


@pytest.mark.parametrize(
    ("engines", "nodes", "fits"),
    [
        ([pool(4, 1), pool(4, 1)], [NodeGroup(1, 8, 16)], True),
        ([pool(4, 1), pool(5, 1)], [NodeGroup(1, 8, 16)], False),
        ([pool(2, 4), pool(1, 1)], [NodeGroup(2, 4, 16)], False),  # the first takes all
        ([pool(1, 4), pool(4, 1)], [NodeGroup(2, 4, 16)], True),
        ([pool(1, 3), pool(1, 3), pool(1, 2)], [NodeGroup(2, 4, 16)], False),  # 8 GPUs, but no two on one node
        ([pool(2, 0.6), pool(1, 0.5)], [NodeGroup(1, 2, 16)], False),  # 0.4 of either GPU are left
        ([pool(2, 0.6), pool(2, 0.4)], [NodeGroup(1, 2, 16)], True),
        ([pool(2, 0, 3), pool(1, 0, 3)], [NodeGroup(1, 0, 8)], False),
        ([pool(1, 0, 3), pool(1, 0, 3)], [NodeGroup(1, 0, 8)], True),  # two are left for reading and writing
        ([pool(1, 0, 3), pool(1, 0, 4)], [NodeGroup(1, 0, 8)], False),
    ],
)
def test_pools_fit_at_once_or_not(engines: list[DummyEngineConfig], nodes: list[NodeGroup], fits: bool) -> None:
    assert fit_at_once(engines, nodes) is fits


def config(folder: Path, *words: str) -> Config:
    return load_config(["dummy", f"out={folder}", "execution.progress=false", *words])


def test_neighbours_that_fit_become_one_pass(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    specs = select.passes(config(tmp_path))
    assert [s.name for s in specs] == ["select-reward", "select-judge"]
    (whole,) = side_by_side(specs, run, lambda some: True)
    assert (whole.name, whole.reads, whole.writes) == ("select-reward+select-judge", "candidates", "selections")
    assert [s.name for s in whole.hosted] == ["select-reward", "select-judge"] and whole.record == specs[1].record
    assert side_by_side(specs, run, lambda some: False) == specs
    third = replace(specs[1], name="select-third", reads="selections", writes="x", earlier=[s.name for s in specs])
    between = [specs[0], replace(specs[1], writes="work/select-judge/table"), replace(third, reads="work/s/table")]
    first, last = side_by_side(between, run, lambda some: third not in some and between[2] not in some)
    assert first.is_between and (last.reads, last.earlier) == (first.writes, [first.name])


def test_rounds_wait_for_the_table_that_the_joined_passes_write(tmp_path: Path) -> None:
    adaptive = "sampling.adaptive={by: best_of_n, first: 3, mean_n: 3}"
    specs = generate.passes(config(tmp_path, REWARD, "sampling.n=5", adaptive))
    first, second = side_by_side(specs, RunFolder(str(tmp_path)), lambda some: True)
    assert [each.name for each in first.hosted] == ["generate-generator", "generate-reward-2"]
    assert second.prepare is not None and second.reads == first.writes
    with pytest.raises(UnfinishedTableError, match=re.escape(first.writes)):
        second.prepare(RunFolder(str(tmp_path)), second.reads)


def test_a_pass_that_was_begun_in_turn_goes_on_in_turn(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    specs = select.passes(config(tmp_path))
    run.write_json({}, "work", "select-reward", "state.json")
    assert side_by_side(specs, run, lambda some: True) == specs


def everything(settings: Config) -> dict[str, list[dict[str, Any]]]:
    run = RunFolder(settings.out)
    tables = ("candidates", "selections", "games")
    return {t: rows_of(run, t, *(n for n in run.dataset(t).schema.names if n != "row_id")) for t in tables}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_side_by_side_and_in_turn_give_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One failing prompt included; side by side (on Ray), the second engine begins before the first one has ended."""
    found, log = {}, tmp_path / "side.log"
    for words in ([], [SIDE_BY_SIDE]):
        side = bool(words)
        words += ["prompts.limit_clusters=3", "judge.audit=0", "engines.judge.fail='schwarzen Tee'"]
        words += ["execution.rows_per_checkpoint=2"]
        if side:  # one log for both: whose request it is, its kind says
            words += [
                f"engines.{name}.{word}" for name in ("reward", "judge") for word in ("latency=0.05", f"log={log}")
            ]
        settings = config(tmp_path / str(side), *words)
        for job in (generate, select, judge):
            with nullcontext() if side and job is select else inprocess.without_ray():
                job.run(settings)
        found[side] = everything(settings)
    assert found[True] == found[False] and len(found[True]["selections"]) == 21
    assert any(row["errors"] for row in found[True]["selections"])
    assert "d-reward on CPUs beside 1 x d" in capsys.readouterr().out.replace("dummy-", "d-")
    kinds = [line.split()[0] for line in log.read_text().splitlines()]
    last = len(kinds) - 1 - kinds[::-1].index("reward")
    assert kinds.index("label_probs") < last
    run = RunFolder(str(tmp_path / "True"))
    passes = (run.marker("selections") or {})["passes"]
    assert list(passes) == ["select-reward", "select-judge"]
    before = (RunFolder(str(tmp_path / "False")).marker("selections") or {})["passes"]
    for name, summary in passes.items():
        assert summary["beside"] == "select-reward+select-judge"
        for key in ("rows", "failed", "requests", "prompt_tokens", "completion_tokens"):
            assert summary[key] == before[name][key]
    assert not run.subfolders("work")


def site(tmp_path: Path) -> Site:
    """``select`` with two engines, its candidates made."""
    place = Site("select", tmp_path / "run", harness.write_prompts(tmp_path / "prompts.jsonl"), [REWARD, SIDE_BY_SIDE])
    with inprocess.without_ray():
        assert main(["generate", *place.config()]) == 0
    return place


def test_stored_rows_are_not_asked_about_again_by_either_engine(tmp_path: Path) -> None:
    place, logs = site(tmp_path), {name: tmp_path / f"{name}.log" for name in ("reward", "judge")}
    words = [f"engines.{name}.log={log}" for name, log in logs.items()]

    def kill(stored: int) -> None:
        if stored == 6:
            raise KeyboardInterrupt

    with inprocess.without_ray(kill):
        assert place.start(*words) == 130
    with inprocess.without_ray():
        assert place.start(*words) == 0
    check_selected(place)
    assert place.summary()["resumed"] == 6 * 4
    for name, times in (("reward", 3), ("judge", 1)):  # a prompt's three candidates are scored one by one
        assert set(begins(logs[name]).values()) == {times}


def begins(log: Path) -> Counter[str]:
    return Counter(line for line in log.read_text().splitlines() if line.endswith("begin"))


def check_selected(place: Site) -> None:
    """Both engines' selectors have chosen in every row."""
    rows = place.rows()
    assert [r["row_id"] for r in rows] == list(range(ROWS))
    methods = {tuple(sorted(s["method"] for s in r["selections"])) for r in rows}
    assert len(methods) == 1 and {"best_of_n", "chops"} <= set(next(iter(methods)))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_pass_resumes(tmp_path: Path, how: signal.Signals) -> None:
    """Killed, every row comes once; drained, what the first engine had done is not done again."""
    place, log = site(tmp_path), tmp_path / "log"
    slow = [f"engines.{name}.latency=0.2" for name in ("reward", "judge")]
    slow += [f"engines.{name}.pool.calls_per_actor=2" for name in ("reward", "judge")]
    logs = [f"engines.{name}.log={log}.{name}" for name in ("reward", "judge")]
    process = place.process(*slow, *logs)
    wait_for(lambda: begun(Path(f"{log}.reward")) >= ROWS or process.poll() is not None)
    process.send_signal(how)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == (-9 if how == signal.SIGKILL else 143), errors
    assert place.start(*logs) == 0
    check_selected(place)
    assert place.summary()["resumed"] > 0 or how == signal.SIGKILL
    if how == signal.SIGTERM:
        for name, times in (("reward", 3), ("judge", 1)):
            assert set(begins(Path(f"{log}.{name}")).values()) == {times}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_poison_row_is_set_aside_by_the_engine_that_it_kills(tmp_path: Path) -> None:
    place = site(tmp_path)
    assert place.start(f"engines.judge.crash='question {harness.POISON}\\b'") == 0
    rows = {r["row_id"]: r for r in place.rows()}
    assert sorted(rows) == list(range(ROWS))
    bad = [i for i, r in rows.items() if r["errors"]]
    assert bad == [harness.POISON]
    assert {e["kind"] for e in rows[harness.POISON]["errors"]} == {"PoisonRow"}
    chosen = {s["method"]: s["index"] for s in rows[harness.POISON]["selections"]}
    assert chosen["best_of_n"] is not None
