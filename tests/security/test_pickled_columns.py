"""The pickled column and its cousins: whatever reads a table of strangers runs nothing that is in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.tables import check_schema, open_file
from tests.conftest import rest_slow
from tests.security.canary import EXTENSION, NESTINGS, Payload, poison_file, poison_run, poisoned

QUIET = "execution.progress=false"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(whole, tmp_path / "theirs")
    return RunFolder(str(tmp_path / "theirs"))


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """Where the canary would show."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "code that came with a file was run"


@pytest.fixture(autouse=True, scope="module")
def a_process_with_ray() -> None:
    """Ray Data registers the type that unpickles, in every process of a job with Ray."""
    import ray.data  # noqa: F401


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_ray")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a job says that ends with the exit code of a bad input."""
    capsys.readouterr()
    assert main([*words]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_the_canary_shows_where_a_table_is_read_as_before(tmp_path: Path) -> None:
    """That the tests below could fail: this is what the code did."""
    path = tmp_path / "t.parquet"
    pq.write_table(poisoned(pa.table({"x": [1]}), "y", tmp_path / "ran"), path)
    pq.read_table(path).to_pylist()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("nesting", NESTINGS)
def test_every_nesting_is_refused_by_name(nesting: str, tmp_path: Path, flag: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(poisoned(pa.table({"x": [1]}), "evil", flag, nesting), path)
    with pytest.raises(InputError, match=r"t\.parquet: column 'evil.*arrow_pickled_object"), open_file(str(path)):
        pass


@pytest.mark.parametrize("nesting", NESTINGS)
def test_also_where_nobody_has_registered_the_type(nesting: str, flag: Path) -> None:
    """Then the name stands in the field's metadata only: what is refused does not depend on who imported what."""
    table = poisoned(pa.table({"x": [1]}), "evil", flag, nesting)
    with pytest.raises(InputError, match="evil"):
        check_schema(table.schema, "t")


def test_inside_a_dictionary_and_behind_a_harmless_name() -> None:
    pickle_type = pa.field("f", pa.large_binary(), metadata=EXTENSION)
    for type_ in (pa.struct([pickle_type]), pa.list_view(pickle_type), pa.sparse_union([pickle_type])):
        with pytest.raises(InputError, match=r"x\.f"):
            check_schema(pa.schema([pa.field("x", type_)]), "t")
    old = pa.field("x", pa.binary(), metadata={b"ARROW:extension:name": b"arrow.py_extension_type"})
    with pytest.raises(InputError, match="py_extension_type"):
        check_schema(pa.schema([old]), "t")


def test_harmless_types_are_read(tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16)))
    other = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}']))
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["q"], "uid": ids, "more": other}), path)
    out = tmp_path / "out"
    assert main(["generate", "dummy", "prompts.kind=file", f"prompts.path={path}", f"out={out}", QUIET]) == 0
    source = RunFolder(str(out)).dataset("prompts").schema.field("source").type
    assert not any(isinstance(f.type, pa.BaseExtensionType) for f in source)


PROMPTS = pa.table({"prompt_id": ["a", "b"], "prompt": ["q", "r"], "language": ["en", "de"]})


@pytest.mark.parametrize(
    ("nesting", "column"),
    rest_slow(
        product(NESTINGS, ("extra", "language")),
        [("plain", "extra"), ("plain", "language"), ("struct in a list", "extra")],
    ),
)
def test_prompts_in_a_file(
    nesting: str, column: str, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(poisoned(PROMPTS, column, flag, nesting), path)
    said = refused(capsys, "generate", "dummy", "prompts.kind=file", f"prompts.path={path}", f"out={tmp_path / 'o'}")
    assert "p.parquet" in said and column in said


def test_prompts_in_a_folder(tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "many").mkdir()
    pq.write_table(PROMPTS, tmp_path / "many/1.parquet")
    pq.write_table(poisoned(PROMPTS, "extra", flag), tmp_path / "many/2.parquet")
    words = ("dummy", "prompts.kind=file", f"prompts.path={tmp_path / 'many'}", f"out={tmp_path / 'o'}")
    assert "2.parquet" in refused(capsys, "generate", *words)


@pytest.mark.parametrize(
    ("table", "column"),
    rest_slow(
        product(TABLES, ("language", "source", "extra")),
        [("candidates", "language"), ("candidates", "source"), *((table, "extra") for table in TABLES)],
    ),
)
def test_another_runs_table_as_prompts(
    table: str, column: str, run: RunFolder, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poison_run(run, column, flag, "struct" if column == "source" else "plain")
    words = ("dummy", f"prompts={{kind: run, path: {run.name}, table: {table}}}", f"out={tmp_path / 'o'}", QUIET)
    assert column in refused(capsys, "run", *words)


def test_a_data_set_that_says_it_is_pickled(tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder stands for the hub's repository: as Parquet, and as Arrow."""
    table = poisoned(PROMPTS, "extra", flag)
    for kind in ("parquet", "arrow"):
        folder = tmp_path / kind
        folder.mkdir()
        if kind == "parquet":
            pq.write_table(table, folder / "test.parquet")
        else:
            with pa.OSFile(str(folder / "test.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        words = ("dummy", f"prompts={{kind: hub, dataset: {folder}}}", f"out={tmp_path / f'o-{kind}'}", QUIET)
        refused(capsys, "generate", *words)


@pytest.mark.parametrize("key", ["prompts.given.files", "answers"])
def test_answers_in_a_file(key: str, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(PROMPTS, tmp_path / "p.parquet")
    answers = pa.table({"prompt_id": ["a", "b"], "text": ["x", "y"]})
    pq.write_table(poisoned(answers, "text", flag), tmp_path / "answers.parquet")
    words = ["dummy", "prompts.kind=file", f"prompts.path={tmp_path / 'p.parquet'}", f"out={tmp_path / 'o'}", QUIET]
    if key == "answers":
        words += [f"answers.other={{kind: file, path: {tmp_path / 'answers.parquet'}}}", "judge.opponent=other"]
    else:
        words += [
            f"prompts.given.files={{other: {tmp_path / 'answers.parquet'}}}",
            "sampling=null",
            "judge.engine=null",
        ]
    assert "answers.parquet" in refused(capsys, "run", *words)


def test_answers_of_another_run(run: RunFolder, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poison_run(run, "prompt_id", flag)
    words = ["dummy", "prompts.limit_clusters=1", "prompts.languages=[en,de]", f"out={tmp_path / 'o'}", QUIET]
    words += [f"answers.other={{kind: run, path: {run.name}, system: hedged/mbr}}", "judge.opponent=other"]
    assert "prompt_id" in refused(capsys, "run", *words)


@pytest.mark.parametrize("column", ["system", "score", "cluster_id"])
def test_a_table_of_games(column: str, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("prompt_id", "language", "system", "opponent", "order")
    games = pa.table({**{n: [n, n] for n in names}, "score": [1.0, 0.0]})
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "games.parquet", tmp_path / "folder/part.parquet"):
        pq.write_table(poisoned(games, column, flag), path)
    for path in (tmp_path / "games.parquet", tmp_path / "folder"):
        assert column in refused(capsys, "winrate", f"games={path}", f"out={tmp_path / 'o'}")


@pytest.mark.parametrize("column", ["task", "utilities", "extra"])
def test_a_replay_table(
    column: str, run: RunFolder, tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "replay.parquet"
    shutil.copy(run.path("replay.parquet"), path)
    poison_file(path, column, flag, "list" if column == "utilities" else "plain")
    assert column in refused(capsys, "replay", str(path))


def test_what_is_to_be_labelled(tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pa.table({"prompt": ["q", "r"], "answers": [["x", "y"], ["z"]]})
    pq.write_table(poisoned(rows, "extra", flag, "struct"), tmp_path / "in.parquet")
    words = ["dummy", "prompts.kind=file", f"prompts.path={tmp_path / 'in.parquet'}", "prompts.given.column=answers"]
    words += ["sampling=null", "label.method=longest", "selectors.longest={}"]
    assert "extra" in refused(capsys, "label", *words, f"out={tmp_path / 'o'}")


JOBS = {
    "generate": ["plans.warm={kind: mixed, n: 2}"],
    "select": ["selectors.longest={}"],
    "judge": ["judge.template=pairwise", "selectors.longest={}"],
    "winrate": [],
    "report": [],
    "export": ["export.format=sft"],
}
ALL_JOBS = (*JOBS, "verify", "retry", "show", "errors", "replay")


@pytest.mark.parametrize(
    ("job", "nesting"),
    rest_slow(
        product(ALL_JOBS, ("plain", "struct in a list")),
        [("select", "struct in a list"), *((job, "plain") for job in ALL_JOBS)],
    ),
)
def test_every_job_on_a_run_that_was_tampered_with(
    job: str, nesting: str, run: RunFolder, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt_id = run.table("prompts", ["prompt_id"])["prompt_id"][0].as_py()
    poison_run(run, "language" if nesting == "plain" else "usage", flag, nesting)
    run.remove_file("replay.parquet")
    words = [run.name, prompt_id] if job == "show" else [run.name]
    code = main([job, f"out={run.name}", *JOBS[job]] if job in JOBS else [job, *words])
    assert code == (3 if job == "verify" else 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["winrates.parquet", "judge_rates.parquet"])
def test_results_that_were_tampered_with(name: str, run: RunFolder, flag: Path) -> None:
    poison_file(run.path(name), "system", flag)
    for job in ("report", "export"):
        main([job, f"out={run.name}", *(["export.format=sft"] if job == "export" else [])])
    assert main(["verify", run.name]) == 3


def test_texts_to_look_up_that_were_tampered_with(tmp_path: Path, flag: Path) -> None:
    from pipeline.judging.answers import Lookup

    folder = RunFolder(str(tmp_path / "run"))
    folder.make("work", "answers")
    table = poisoned(pa.table({"prompt_id": ["a"]}), "text", flag)
    with pa.OSFile(folder.path("work", "answers", "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    with pytest.raises(InputError, match=r"x\.arrow"):
        Lookup(folder, "x")


def test_a_worker_reads_no_file_that_was_not_looked_at(run: RunFolder, flag: Path) -> None:
    """Workers read shards by themselves, whatever the driver has looked at."""
    poison_run(run, "extra", flag)
    run.checks = False
    with pytest.raises(InputError, match="extra"):
        run.dataset("candidates").shard(0, ["candidates"])


def test_a_file_cannot_make_its_paths_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an image, a path in a row would be opened here, or fetched from the network, and given to a decoder."""
    import datasets

    features = datasets.Features({"prompt": datasets.Value("string"), "picture": datasets.Image()})
    rows = {"prompt": ["q"], "picture": [{"path": "/etc/hostname", "bytes": None}]}
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    path = tmp_path / "p.parquet"
    pq.write_table(table, path)
    words = ["dummy", "prompts.kind=file", f"prompts.path={path}", "prompts.columns.reference=picture", QUIET]
    assert main(["generate", *words, f"out={tmp_path / 'o'}"]) == 0
    (row,) = RunFolder(str(tmp_path / "o")).table("prompts", ["reference"]).to_pylist()
    assert row["reference"] == '{"bytes": null, "path": "/etc/hostname"}'


def test_pickles_are_what_the_canary_is_made_of(tmp_path: Path) -> None:
    import pickle

    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").exists()
