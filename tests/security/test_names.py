"""Names that data and configs bring: none leaves a folder, none collides with ours, and no link is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import build_config
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.core.lock import run_lock
from pipeline.prompts.sources import FileSource, RunSource, read_prompts
from tests.conftest import jsonl, run_with_prompts


@pytest.mark.usefixtures("own_datasets_cache")
@pytest.mark.parametrize("name", ["all", "macro"])
def test_a_language_that_results_need_for_themselves_is_refused_when_read(
    name: str, run: RunFolder, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "q", "language": "en"}, {"prompt": "r", "language": name})
    with pytest.raises(InputError, match=rf"p\.jsonl, row 1 .*'{name}'"):
        read_prompts(FileSource(path=path), run)
    assert run.marker("prompts") is None
    with pytest.raises(InputError, match=name):
        read_prompts(FileSource(paths={name: jsonl(tmp_path / "q.jsonl", {"prompt": "q"})}), run)
    other = run_with_prompts(tmp_path / "other", 2, languages=("en", name))
    with pytest.raises(InputError, match=name):
        read_prompts(RunSource(path=other.name, table="prompts"), run)


def test_and_in_outside_games(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["prompt_id,language,system,opponent,order,score", "p,macro,a,b,ab,1"]
    (tmp_path / "g.csv").write_text("\n".join(rows) + "\n")
    assert main(["winrate", f"games={tmp_path / 'g.csv'}", f"out={tmp_path / 'out'}"]) == 2
    assert "macro" in capsys.readouterr().err and not (tmp_path / "out" / "winrates.csv").exists()


def test_a_link_where_a_file_is_written_is_replaced_and_not_followed(run: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = Path(run.make("x"))
    for name in ("a.json", "a.json.tmp"):
        (folder / name).symlink_to(victim)
    run.write_text("new", "x", "a.json")
    assert victim.read_text() == "mine" and (folder / "a.json").read_text() == "new"
    assert not (folder / "a.json").is_symlink()
    assert sorted(p.name for p in folder.iterdir()) == ["a.json", "a.json.tmp"]  # nothing is left lying


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_rest(run: RunFolder) -> None:
    run.write_text("old", "x", "a")
    with pytest.raises(RuntimeError), run.whole("x", "a") as path:
        Path(path).write_text("half")
        raise RuntimeError
    assert run.read_text("x", "a") == "old" and run.names("x") == {"a"}


def test_a_lock_that_is_a_link_is_not_opened(run: RunFolder, tmp_path: Path) -> None:
    (Path(run.make("work")) / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link"), run_lock(run):
        pass
    assert not (tmp_path / "victim").exists()


WRONG = {
    "modules": [[5], "abc", 5, [[1]], [{"a": 1}], [None]],
    "judge.systems": ["abc", [{"a": 1}], {"a": 1}],
    "export.splits": [[1], {"a": [1]}],
    "sweep.temperatures": [[[1]], [{"a": 1}]],
    "ray.env": [[[1]], {"a": 1}],
    "ray.nodes": [{"a": 1}, ["x"]],
    "replay.n": [[{}]],
    "out": [["x"], {"a": 1}],
    "seed": [[1]],
    "prompts.languages": [[["en"]], {"a": 1}],
    "engines.generator.pool": ["x", [1]],
    "sampling.temperature": [[1]],
    "tasks.math": [{"stop": [{"a": 1}]}, {"instructions": {"de": ["x"]}}],
    "execution": ["x", [1]],
    "answers": ["x", ["x"]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_the_wrong_type_is_an_error_that_names_its_key(key: str, value: Any) -> None:
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    with pytest.raises(ConfigError) as caught:
        build_config(nested)
    assert str(caught.value).startswith(key.partition(".")[0])
