"""A finished table that lost or changed a file is noticed by the next job that reads it, in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core import digests
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.schema import prompts_schema, with_provenance
from tests.conftest import rest_slow, run_with_prompts

FS = pafs.LocalFileSystem()
Damage = Callable[[list[Path]], None]


def remove(files: list[Path]) -> None:
    files[1].unlink()


def cut_off(files: list[Path]) -> None:
    data = files[1].read_bytes()
    files[1].write_bytes(data[: len(data) // 2])


def exchange(files: list[Path]) -> None:
    files[1].write_bytes(files[0].read_bytes())


def swap(files: list[Path]) -> None:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def add(files: list[Path]) -> None:
    shutil.copy(files[0], files[0].with_name("zzz.parquet"))


def rewrite(files: list[Path]) -> None:
    table = pq.read_table(files[1])
    rows = [{**row, "language": "xx"} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), files[1])


JOBS = ("select", "judge", "winrate", "report", "export", "retry", "show", "errors")
DAMAGES: dict[str, tuple[Damage, str]] = {
    "removed": (remove, "00001.parquet is missing, with 4 rows"),
    "cut off": (cut_off, "00001.parquet has"),
    "exchanged": (exchange, "00001.parquet"),
    "swapped": (swap, "was changed, or exchanged"),
    "added": (add, "zzz.parquet is no file of the table"),
    "rewritten": (rewrite, "00001.parquet"),
}


def table_of_files(folder: Path, files: int = 3, rows: int = 4) -> RunFolder:
    """A finished prompts/ table of several files of the same size."""
    run = RunFolder(str(folder))
    run.make("prompts")
    whole = run_with_prompts(folder / "whole", files * rows).dataset("prompts").to_table()
    schema = with_provenance(prompts_schema(pa.struct([("row", pa.int64())])), {})
    for i in range(files):
        path = run.path("prompts", f"0000{i}.parquet")
        pq.write_table(whole.slice(i * rows, rows).cast(schema), path, compression="none", use_dictionary=False)
    run.complete("prompts", {"rows": files * rows, "sizes": [rows] * files, "fingerprint_hash": "x", "fingerprint": {}})
    return run


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_table_that_was_damaged_is_refused_when_it_is_opened(damage: str, tmp_path: Path) -> None:
    run = table_of_files(tmp_path)
    assert run.dataset("prompts").count_rows() == 12
    change, says = DAMAGES[damage]
    change([Path(p) for p in run.files("prompts")])
    for read in (lambda: run.dataset("prompts"), lambda: list(run.leaves("prompts", lambda top, leaf: True))):
        with pytest.raises(InputError, match="run the job that writes it again") as caught:
            read()
        assert says in str(caught.value)


def test_every_byte_counts_for_verify(tmp_path: Path) -> None:
    """A value in the middle of a large file, its length unchanged: the end is the same, so only ``verify`` sees it."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": ["a" * 200 + str(i) for i in range(2000)]}), path, compression="none")
    records = digests.record([str(path)], FS)
    data = bytearray(path.read_bytes())
    at = data.index(b"aaaaaaaa")
    data[at] = ord("b")
    path.write_bytes(data)
    assert list(digests.differences(records, str(tmp_path), FS)) == []
    assert list(digests.differences(records, str(tmp_path), FS, thorough=True)) == [
        "t.parquet was changed, or exchanged for another file"
    ]


def test_a_record_says_what_a_file_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "t.parquet")
    (record,) = digests.record([str(tmp_path / "t.parquet")], FS).values()
    assert (record["rows"], record["bytes"]) == (3, (tmp_path / "t.parquet").stat().st_size)


@pytest.mark.parametrize(
    ("job", "damage"),
    rest_slow(product(JOBS, ("remove", "cut")), [("select", "cut"), *((job, "remove") for job in JOBS)]),
)
@pytest.mark.usefixtures("no_ray")
def test_no_job_goes_on_with_a_damaged_table(
    job: str, damage: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = RunFolder(str(tmp_path / "run"))
    prompt_id = run.table("prompts", ["prompt_id"])["prompt_id"][0].as_py()
    for table in ("prompts", "candidates", "selections", "games"):
        for path in map(Path, run.files(table)):
            path.write_bytes(path.read_bytes()[:200]) if damage == "cut" else path.unlink()
    words = {"show": [run.name, prompt_id], "errors": [run.name], "retry": [run.name]}
    own = {"select": ["selectors.longest={}"], "judge": ["selectors.longest={}"], "export": ["export.format=sft"]}
    capsys.readouterr()
    assert main([job, *words.get(job, [f"out={run.name}", *own.get(job, [])])]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.startswith(f"lemonpress {job}: ")
