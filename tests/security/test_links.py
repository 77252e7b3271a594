"""Links in a stranger's folder lead nothing of ours out of it: no reading, no writing, no deleting elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.prompts.files import local_files
from pipeline.prompts.sources import FileSource
from tests.inprocess import without_ray

QUIET = "execution.progress=false"
WORDS = ["dummy", "prompts.limit_clusters=1", "prompts.languages=[en]", QUIET]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs") / "run"
    with without_ray():
        assert main(["generate", *WORDS, f"out={folder}"]) == 0
    return folder


@pytest.fixture
def theirs(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "theirs"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of ours with names that jobs use."""
    for name in ("input", "run", "verify", "prompts"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "thesis.txt").write_text("years of work")
    return tmp_path / "mine"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("link", ["work/verify", "work", "work/verify/input", "work/verify/run"])
def test_verify_neither_deletes_nor_writes_elsewhere(
    link: str, theirs: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (theirs / "work").exists():
        shutil.rmtree(theirs / "work")
    (theirs / link).parent.mkdir(parents=True, exist_ok=True)
    (theirs / link).symlink_to(mine)
    before = files(mine)
    assert main(["verify", str(theirs), "verify.rows=1"]) in (2, 3)
    said = capsys.readouterr()
    assert str(theirs / link) in said.out + said.err and files(mine) == before


@pytest.mark.usefixtures("no_ray")
def test_no_table_is_read_through_a_link(
    theirs: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(theirs / "candidates")
    (theirs / "candidates").symlink_to(whole / "candidates")
    assert main(["select", *WORDS, f"prompts={{kind: run, path: {theirs}}}", f"out={tmp_path / 'new'}"]) == 2
    assert str(theirs / "candidates") in capsys.readouterr().err


def test_nor_one_of_its_files(theirs: Path) -> None:
    file = next((theirs / "candidates").rglob("*.parquet"))
    elsewhere = shutil.move(file, theirs.parent / "secret.parquet")
    file.symlink_to(elsewhere)
    with pytest.raises(InputError, match=file.name):
        RunFolder(str(theirs)).dataset("candidates")


@pytest.mark.usefixtures("no_ray")
def test_reading_more_prompts_empties_no_folder_elsewhere(tmp_path: Path, mine: Path) -> None:
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out"
    lines = ['{"prompt": "one"}\n', '{"prompt": "two"}\n']
    words = ["dummy", "prompts={kind: file}", f"prompts.path={prompts}", QUIET, f"out={out}"]
    prompts.write_text(lines[0])
    assert main(["generate", *words]) == 0
    (out / "work").mkdir(exist_ok=True)
    (out / "work/read").symlink_to(mine)
    prompts.write_text("".join(lines))
    before = files(mine)
    assert main(["generate", *words]) == 2
    assert files(mine) == before


@pytest.mark.parametrize("operation", ["make", "remove", "names", "exists", "read_text", "parquet_files", "path"])
def test_every_way_into_the_storage_looks_at_links(operation: str, tmp_path: Path, mine: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    run.make()
    (tmp_path / "run/work").symlink_to(mine)
    before = files(mine)
    with pytest.raises(InputError, match="link"):
        getattr(run, operation)("work", "input")
    with pytest.raises(InputError, match="link"):
        run.write_text("x", "work", "input", "x.txt")
    with pytest.raises(InputError, match="link"):
        run.inside("work", "input")
    run.make("sub")
    (tmp_path / "run/sub/up").symlink_to(mine)
    with pytest.raises(InputError, match="link"):
        getattr(run.inside("sub"), operation)("up", "input")
    assert files(mine) == before


def test_links_within_a_run_and_a_root_behind_a_link_are_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for name in (str(tmp_path / "out"), f"file://{tmp_path}/out"):
        run = RunFolder(name)
        run.write_text("text", "a", "x.txt")
        (tmp_path / "disk/b").unlink(missing_ok=True)
        (tmp_path / "disk/b").symlink_to(tmp_path / "disk/a")
        assert run.read_text("b", "x.txt") == "text"
        assert run.inside("a").read_text("x.txt") == "text"


@pytest.mark.parametrize(
    "named", ["folder", "folder/*.csv", "folder/../folder/?.csv", "file://folder", "file://folder/*.csv"]
)
def test_a_link_in_a_prompts_folder_reads_no_file_elsewhere(named: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.csv").write_text("prompt\nhush\n")
    path = named.replace("file://", f"file://{tmp_path}/") if "://" in named else str(tmp_path / named)
    (folder / "a.csv").write_text("prompt\nhello\n")
    (folder / "b.csv").symlink_to(folder / "a.csv")
    assert len(local_files(FileSource(path=path), Path())) == 2  # a link within is fine
    (folder / "p.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(ConfigError, match=r"p\.csv is a link"):
        local_files(FileSource(path=path), Path())


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("prompt\nhello\n")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "link.csv").symlink_to(tmp_path / "data/a.csv")
    for path in ("link", "link/*.csv", "link.csv"):
        assert len(local_files(FileSource(path=str(tmp_path / path)), Path())) == 1
