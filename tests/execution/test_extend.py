"""What is carried over from a table's version before, and what an extension has to do: no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ResumeError
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.row import Row
from pipeline.core.schema import COLUMNS
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage
from pipeline.execution.carry import Carry
from pipeline.execution.extend import Extension, Made, Unit, Wanted, plan


def candidate(text: str, plan_name: str) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS["candidates"].value_type.names) | {"text": text, "plan": plan_name}


def score(scorer: str, plan_name: str, *values: float) -> dict[str, Any]:
    return {"scorer": scorer, "plan": plan_name, "values": list(values)}


def selection(plan_name: str, method: str, index: int) -> dict[str, Any]:
    return {"plan": plan_name, "method": method, "index": index, "text": "t", "score": None, "detail": None}


def used(job: str, stage: str) -> dict[str, Any]:
    return {"job": job, "stage": stage, "model": "m", "requests": 1} | dict.fromkeys(
        ("prompt_tokens", "cached_tokens", "completion_tokens"), 0
    )


def error(job: str, stage: str) -> dict[str, Any]:
    return {"job": job, "stage": stage, "kind": "K", "message": "m"}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(rows[0])
    return pa.table({n: pa.array([r[n] for r in rows], COLUMNS[n]) for n in names})


def carried(
    tmp_path: Path, before: dict[str, Any], now: list[dict[str, Any]], job: str, columns: list[str], **more: Any
) -> list[dict[str, Any]]:
    """``before`` is row 0 of the earlier version, ``now`` what the input holds for rows 0, 1 ..."""
    path = str(tmp_path / "before.parquet")
    pq.write_table(table([{"row_id": 0, **before}]), path)
    carry = Carry(Extension("t", 1, job, rows=1, **more), [path], RunFolder(str(tmp_path)).fs, columns)
    found: list[dict[str, Any]] = carry.onto(table([{"row_id": i, **r} for i, r in enumerate(now)])).to_pylist()
    return found


def test_candidates_given_and_sampled_into_one_set_are_kept(tmp_path: Path) -> None:
    both = [candidate("a", "given"), candidate("b", "given")]
    before = {"candidates": both, "usage": [used("generate", "generate:x")], "errors": []}
    now = {"candidates": both[:1], "usage": [], "errors": [error("prompts", "read")]}
    first, second = carried(tmp_path, before, [now, now], "generate", ["candidates"])
    assert [c["text"] for c in first["candidates"]] == ["a", "b"]
    assert [u["stage"] for u in first["usage"]] == ["generate:x"]
    assert [e["job"] for e in first["errors"]] == ["prompts"]
    assert [c["text"] for c in second["candidates"]] == ["a"] and second["usage"] == []


def test_selections_of_sets_that_grew_are_left_and_the_inputs_scores_are_newer(tmp_path: Path) -> None:
    before = {
        "scores": [
            score("self_certainty", "grew", 1.0),
            score("mbr", "grew", 1.0),
            score("metric:chrf", "grew", 1.0),
            score("metric:chrf", "answer:grew/fusion", 1.0),
            score("mbr", "same", 1.0),
            score("metric:chrf", "same", 1.0),
        ],
        "selections": [selection("grew", "mbr", 0), selection("same", "mbr", 0), selection("policy", "policy", 0)],
        "usage": [used("generate", "generate:grew"), used("select", "select:mbr")],
        "errors": [error("select", "select:mbr"), error("select", "select:fusion"), error("generate", "generate:grew")],
    }
    now = {
        "scores": [score("self_certainty", "grew", 1.0, 2.0)],
        "usage": [used("generate", "generate:grew")],
        "errors": [],
    }
    stale, redone = frozenset({"grew", "grew/mbr"}), frozenset({"select:fusion"})
    (row,) = carried(
        tmp_path, before, [now], "select", ["scores", "selections"], stale=stale, redone=redone
    )  # fmt: skip
    assert [(s["scorer"], s["plan"], len(s["values"])) for s in row["scores"]] == [
        ("self_certainty", "grew", 2),
        ("mbr", "same", 1),
        ("metric:chrf", "same", 1),
    ]
    assert [s["plan"] for s in row["selections"]] == ["same"]
    assert [u["job"] for u in row["usage"]] == ["generate", "select"]
    assert [e["stage"] for e in row["errors"]] == ["select:mbr"]


class Named(Stage):
    """A stage that remembers which units are asked of it."""

    def __init__(self, name: str, units: list[str] | None = None) -> None:
        self._name, self.units = name, units

    @property
    def name(self) -> str:
        return self._name

    def rest(self, units: Any, before: Any) -> Named:
        return Named(self._name, list(units))

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        return row


def source(run: RunFolder, rows: int = 5, version: str = "s1", root: str = "p", **sets: int) -> Made:
    """The finished table ``s``: what holds these candidate sets of so many candidates."""
    made = Made({f"generate:{name}": {name: Unit.of({}, {"n": n})} for name, n in sets.items()})
    marker = {"rows": rows, "fingerprint_hash": version, "root": root, "made": made.as_json()}
    run.write_json(marker, "s", MARKER)
    return made


def test_what_is_left_to_do(run: RunFolder) -> None:
    """Same, new and redone units, unconfigured ones, settings that changed, more rows, other prompts."""
    sets = source(run, a=1, b=1)

    def mbr(names: str, settings: int = 1) -> Wanted:
        return Wanted(Named("select:mbr"), {"s": settings}, {name: sets.ids(name) for name in names})

    vote = Wanted(Named("select:vote"), {}, {name: sets.ids(name) for name in "ab"})
    metrics = Wanted(Named("measure"), {}, {"": None}, follows=True)
    made = plan(run, "select", [mbr("ab"), vote, metrics], "s", "t").made.as_json()
    run.write_json({"rows": 5, "made": made, "source": "s1", "root": "p", "version": 3}, "t", MARKER)

    same = plan(run, "select", [mbr("ab"), metrics], "s", "t")
    assert same.finished and set(same.made.units) == {"select:mbr", "select:vote", "measure"}

    with pytest.raises(ResumeError, match=r'select:mbr a: in the folder(.|\n)*-\s+"s": 1\n\+\s+"s": 2(.|\n)*force'):
        plan(run, "select", [mbr("ab", 2), metrics], "s", "t")
    forced = plan(run, "select", [mbr("ab", 2), metrics], "s", "t", force=True)
    assert forced.finished and len(forced.mixed) == 2
    assert forced.made.ids("a/mbr") == same.made.ids("a/mbr")  # its games stay

    source(run, rows=7, version="s2", a=1, b=1)
    rows = plan(run, "select", [mbr("ab"), metrics], "s", "t")
    assert rows.needed == {"select:mbr", "measure"}
    assert rows.extension and rows.extension.rest["select:mbr"] is None and rows.extension.rows == 5

    source(run, version="s2", a=1, b=1, unused=1)
    other = plan(run, "select", [mbr("ab"), metrics], "s", "t")
    assert not other.finished and other.needed == {"measure"}  # the input's new columns must come in

    sets = source(run, version="s2", a=2, b=1, c=1)
    more = plan(run, "select", [mbr("abc"), metrics], "s", "t")
    assert more.needed == {"select:mbr", "measure"} and not more.finished
    extension = more.extension
    assert extension is not None
    left = extension.rest["select:mbr"]
    assert isinstance(left, Named) and left.units == ["a", "c"]
    assert extension.stale == {"a", "a/mbr", "a/vote"}  # nobody asks for the vote any more, and its set changed
    assert extension.redone == {"measure"}  # mbr's earlier errors may be about set b
    assert set(more.made.units["select:vote"]) == {"b"}
    assert more.made.ids("b/mbr") == same.made.ids("b/mbr") and more.made.ids("a/mbr") != same.made.ids("a/mbr")

    source(run, root="q", a=1)
    with pytest.raises(ResumeError, match="other prompts"):
        plan(run, "select", [mbr("ab")], "s", "t")


def test_games_against_an_opponent_that_is_not_asked_for_go_when_an_answer_changes(run: RunFolder) -> None:
    def selections(mbr: int) -> Made:
        units = {f"select:{m}": {"a": Unit.of({}, {"n": n})} for m, n in (("mbr", mbr), ("one", 1), ("two", 1))}
        made = Made(units)
        run.write_json({"rows": 5, "fingerprint_hash": str(mbr), "made": made.as_json()}, "s", MARKER)
        return made

    def games(made: Made, opponent: str, *systems: str) -> Wanted:
        return Wanted(Named("judge"), {}, {f"{s} vs {opponent}": made.ids(s, opponent) for s in systems})

    first = games(selections(1), "a/one", "a/mbr", "a/two")
    made = plan(run, "judge", [first], "s", "t").made.as_json()
    run.write_json({"rows": 5, "made": made, "source": "1"}, "t", MARKER)
    found = plan(run, "judge", [games(selections(2), "a/two", "a/mbr")], "s", "t")
    assert found.extension and found.extension.stale == {"a/mbr vs a/one"}
    assert set(found.made.units["judge"]) == {"a/two vs a/one", "a/mbr vs a/two"}


def test_tables_that_do_not_tell_what_they_hold_are_refused(run: RunFolder) -> None:
    run.write_json({"rows": 5, "fingerprint": {"stages": {"select:mbr": {}}}}, "t", MARKER)
    assert Made.read(run, "t").units == {}
    with pytest.raises(ResumeError, match="earlier Lemonpress"):
        plan(run, "select", [Wanted(Named("select:mbr"), {}, {"a": 1})], "s", "t")


def test_tidying_leaves_the_current_version_and_the_blocks_of_the_next(run: RunFolder) -> None:
    """Half-done work towards a larger table outlives a run of the old config."""
    for folder in ("", "v1", "blocks-2", "v2", "blocks-3", "v3"):
        run.make(*filter(None, ("t", folder)))
        pq.write_table(pa.table({"row_id": [0]}), run.path(*filter(None, ("t", folder)), "part.parquet"))
    run.switch("t", {"rows": 1, "version": 2, "folder": "v2"})
    assert run.subfolders("t") == ["blocks-3", "v2", "v3"]
    assert run.data_files("t") == [run.path("t", "v2", "part.parquet")]
    assert run.block_files("t") == [run.path("t", "blocks-3", "part.parquet")] and not run.parquet_files("t")
    run.write_text("x", "old", "part.parquet")
    run.write_json({"rows": 0}, "old", MARKER)
    run.tidy("old")
    assert run.data_files("old") == [run.path("old", "part.parquet")]


def test_games_of_answers_that_changed_are_left(tmp_path: Path) -> None:
    def game(system: str, opponent: str = "a/one") -> dict[str, Any]:
        names = COLUMNS["games"].value_type.names
        return dict.fromkeys(names) | {"system": system, "opponent": opponent, "order": "ab"}

    before = {"games": [game("a/mbr"), game("b/mbr"), game("a#0"), game("a#11"), game("b#0"), game("a/mbr", "x")]}
    stale = frozenset({"a/mbr vs a/one", "a# vs a/one"})
    empty: dict[str, Any] = {"usage": [], "errors": []}
    (row,) = carried(tmp_path, before | empty, [empty], "judge", ["games"], stale=stale)
    assert [(g["system"], g["opponent"]) for g in row["games"]] == [
        ("b/mbr", "a/one"),
        ("b#0", "a/one"),
        ("a/mbr", "x"),
    ]
