"""Records against the Arrow schema, hashing, the registry, storage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.errors import ConfigError, InputError, UnfinishedTableError
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.hashing import argmax, derive_seed, digest
from pipeline.core.registry import Registry
from pipeline.core.row import NESTED, Row
from tests.conftest import run_with_prompts


def test_records_and_schema_hold_the_same_fields() -> None:
    for column, record in NESTED.items():
        item = schema.COLUMNS[column].value_type
        assert [f.name for f in dataclasses.fields(record)] == [f.name for f in item]
    assert {f.name for f in dataclasses.fields(Row)} == {*schema.COLUMNS, "source"}


def test_columns_are_appended_in_table_order() -> None:
    base = schema.prompts_schema(pa.struct([("x", pa.int32())]))
    grown = schema.with_columns(base, ["games", "candidates"])
    assert grown.names == [*schema.PROMPT_COLUMNS, "source", "candidates", "games", "usage", "errors"]
    assert grown.field("source").type == pa.struct([("x", pa.int32())])


def test_a_newer_major_schema_is_refused(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 2)
    file = run.files("prompts")[0]
    table = pq.read_table(file)
    run.checks = False
    newer = table.replace_schema_metadata({schema.METADATA_KEY: b'{"schema_version": "2.0"}'})
    pq.write_table(newer, file)
    with pytest.raises(InputError, match=r"schema 2\.0.*upgrade"):
        list(run.dataset("prompts").batches())
    pq.write_table(table.replace_schema_metadata({}), file)
    with pytest.raises(InputError, match="not a Lemonpress table"):
        list(run.dataset("prompts").batches())


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 2)
    (tmp_path / "prompts" / MARKER).unlink()
    with pytest.raises(UnfinishedTableError, match="not finished"):
        run.dataset("prompts")
    with pytest.raises(UnfinishedTableError, match="does not exist"):
        run.dataset("candidates")


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_json({"a": 1}, "x", "state.json")
    run.write_json({"a": 2}, "x", "state.json")
    assert run.read_json("x", "state.json") == {"a": 2}
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["state.json"]
    assert run.read_json("missing.json") is None


def test_seeds_are_stable_and_spread() -> None:
    assert derive_seed(1, "p0", "hedged", 1) == derive_seed(1, "p0", "hedged", 1)
    seeds = {derive_seed(1, f"p{i}", "hedged", 1) for i in range(10_000)}
    assert len(seeds) > 9_990
    assert all(0 <= s < 2**31 for s in seeds)
    assert digest("a", 1) != digest("a", "1")


def test_ties_are_broken_by_hash_not_by_position() -> None:
    winners = [argmax([1.0, 1.0, 0.0, None, 1.0], "t", i) for i in range(3000)]
    counts = {w: winners.count(w) for w in set(winners)}
    assert set(counts) == {0, 1, 4}
    assert all(abs(c - 1000) < 120 for c in counts.values())
    assert argmax([None, float("nan")], "t") is None
    assert argmax([0.1, 0.3, 0.2]) == 1


def test_the_registry_names_the_nearest() -> None:
    things: Registry[object] = Registry("thing")
    things.register("lemon")(type("Lemon", (), {}))
    with pytest.raises(ConfigError, match=r"k: unknown thing 'lemn'; did you mean 'lemon'\?"):
        things.get("lemn", "k")
    with pytest.raises(ConfigError, match="two things"):
        things.register("lemon")(type("Other", (), {}))
