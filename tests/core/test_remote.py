"""Runs and inputs on an S3-compatible server (moto's), started here on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.remote import local_copies
from pipeline.prompts.sources import FileSource, RunSource, read_prompts
from tests.conftest import rows_of
from tests.inprocess import without_ray

GAMES = "prompt_id,language,system,opponent,order,score\n" + "".join(
    f"p{i},en,ours,theirs,{order},{(i + 1) % 3 / 2}\n" for i in range(60) for order in ("ab", "ba")
)


class Bucket:
    """A bucket on the server."""

    def __init__(self, server: str, name: str) -> None:
        self.query = f"?scheme=http&endpoint_override={quote(server, safe='')}"
        self.name = name
        self.fs = pafs.S3FileSystem(scheme="http", endpoint_override=server, allow_bucket_creation=True)
        self.fs.create_dir(name)

    def uri(self, path: str) -> str:
        return f"s3://{self.name}/{path}{self.query}"

    def put(self, path: str, text: str) -> str:
        with self.fs.open_output_stream(f"{self.name}/{path}") as stream:
            stream.write(text.encode())
        return self.uri(path)


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own; copies of remote files stay out of the user's cache."""
    monkeypatch.setenv("LEMONPRESS_CACHE", str(tmp_path / "cache"))
    return Bucket(s3_server, f"b{abs(hash(request.node.name)) % 10**9}")


def lines(*texts: str) -> str:
    return "".join(json.dumps({"prompt": t, "language": "en"}) + "\n" for t in texts)


def test_small_files_markers_and_folders(bucket: Bucket) -> None:
    run = RunFolder(bucket.uri("runs/a"))
    assert not run.exists("work") and run.read_json("work", "x.json") is None and run.files("prompts") == []
    run.write_json({"a": 1}, "work", "x.json")
    run.write_json({"a": 2}, "work", "x.json")
    assert run.read_json("work", "x.json") == {"a": 2}
    assert RunFolder(run.uri("work")).read_json("x.json") == {"a": 2}
    run.remove("work")
    assert not run.exists("work")
    assert RunFolder("some/where").uri("x") == RunFolder("some/where").path("x")


def test_an_endpoint_may_come_from_the_environment(
    bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    bucket.put("runs/a/x.json", "3")
    assert RunFolder(f"s3://{bucket.name}/runs/a").read_json("x.json") == 3


@pytest.mark.usefixtures("own_datasets_cache")
def test_prompts_come_from_a_file_a_folder_a_glob_or_another_run(bucket: Bucket, tmp_path: Path) -> None:
    one = bucket.put("in/one.jsonl", lines("first", "second"))
    bucket.put("in/two.jsonl", lines("third"))
    bucket.put("in/_SUCCESS", "")
    bucket.put("in/notes.txt", "no prompt")

    def read(path: str, out: str) -> list[str]:
        run = RunFolder(out)
        report = read_prompts(FileSource(path=path), run)
        assert all(name.startswith(f"s3://{bucket.name}/in/") for name in report.files)
        return [r["messages"][0]["content"] for r in rows_of(run, "prompts", "messages")]

    assert read(one, bucket.uri("runs/one")) == ["first", "second"]
    assert read(bucket.uri("in"), str(tmp_path / "folder")) == ["first", "second", "third"]
    assert read(bucket.uri("in/t*.jsonl"), str(tmp_path / "glob")) == ["third"]
    copied = RunFolder(bucket.uri("runs/copy"))
    read_prompts(RunSource(path=bucket.uri("runs/one"), table="prompts"), copied)
    assert [r["row_id"] for r in rows_of(copied, "prompts")] == [0, 1]
    with pytest.raises(ConfigError, match=r"prompts\.path: no such file: s3://"):
        read(bucket.uri("in/none.jsonl"), str(tmp_path / "none"))


def test_a_changed_original_is_copied_anew(bucket: Bucket) -> None:
    uri = bucket.put("in/a.jsonl", lines("old"))
    first = local_copies(uri, "k")[0]
    assert local_copies(uri, "k") == [first]
    bucket.put("in/a.jsonl", lines("a new text"))
    second = local_copies(uri, "k")[0]
    assert second != first and "a new text" in second.read_text()


def test_credentials_in_a_path_are_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("out=s3://KEY:hushhush@b/run", "prompts={kind: file, path: 's3://KEY:hushhush@b/p.jsonl'}"):
        assert main(["generate", "dummy", word]) == 2
        said = capsys.readouterr()
        assert "hushhush" not in said.err + said.out
        assert "environment variable" in said.err


def test_a_missing_bucket_ends_in_one_line(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_of(bucket.uri("x").replace(bucket.name, "no-such-bucket"), capsys).count("no-such-bucket")


@pytest.mark.slow  # the client tries for 12 s
def test_a_dead_server_ends_in_one_line(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    one_line_of("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1%3A9", capsys)


def one_line_of(uri: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a job says that cannot reach its run's folder."""
    assert main(["generate", "dummy", f"out={uri}"]) == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and "Traceback" not in said, said
    return said


def test_outside_games_and_their_tables_on_the_store(bucket: Bucket) -> None:
    games, out = bucket.put("in/games.csv", GAMES), bucket.uri("runs/games")
    assert main(["winrate", f"games={games}", f"out={out}", "winrate.draws=100"]) == 0
    with bucket.fs.open_input_file(f"{bucket.name}/runs/games/winrates.parquet") as source:
        assert {r["n_prompts"] for r in pq.read_table(source).to_pylist()} >= {60}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "own_datasets_cache")
def test_a_whole_run_on_the_store_stopped_once_and_resumed(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts, outside answers, tables, layers, lock and report are on the server.

    Two shards are stored without Ray, then the process is gone; what is left is made on Ray.
    """
    n, k, stored = 24, 4, 2
    answer = bucket.put(
        "in/answers.jsonl", "".join(json.dumps({"q": i, "text": f"reply {i}"}) + "\n" for i in range(n))
    )
    numbered = "".join(json.dumps({"prompt": f"question {i}", "language": "en", "q": str(i)}) + "\n" for i in range(n))
    prompts = bucket.put("in/prompts.jsonl", numbered)
    log = tmp_path / "calls.log"
    settings = f"""
out: "{bucket.uri("runs/whole")}"
prompts: {{kind: file, path: "{prompts}", columns: {{id: q}}, shard_rows: {k}}}
selectors: {{random: null, likelihood: null, best_of_n: null, judge: null, chops: {{engine: generator}}}}
answers: {{filed: {{kind: file, path: "{answer}", id: q}}}}
judge: {{audit: 0, engine: generator}}
winrate: {{draws: 200}}
execution: {{progress: false}}
engines: {{generator: {{log: "{log}"}}}}
"""
    words = ["run", "dummy", bucket.put("in/mine.yaml", settings)]
    run = RunFolder(bucket.uri("runs/whole"))

    def gone(shards: int) -> None:
        if shards == stored:
            raise KeyboardInterrupt

    with without_ray(gone):
        assert main(words) == 130
    assert run.marker("candidates") is None
    leave_lock_of_a_dead_process(run)
    assert main(words) == 0

    assert not [path for path in (*Path().iterdir(), *tmp_path.iterdir()) if path.name in ("s3:", bucket.name)]
    names = [f.path for f in bucket.fs.get_file_info(pafs.FileSelector(f"{bucket.name}/runs/whole", recursive=True))]
    for table in ("prompts", "candidates", "selections", "games"):
        assert any(f"/whole/{table}/" in name and name.endswith(".parquet") for name in names)
    rows = rows_of(run, "games", "prompt_id", "candidates", "selections", "answers", "games", "errors")
    assert [r["prompt_id"] for r in rows] == [str(i) for i in range(n)]
    for i, r in enumerate(rows):
        assert len(r["candidates"]) == 5 and not r["errors"]
        assert r["answers"] == [{"system": "filed", "text": f"reply {i}"}]
        assert Counter(g["system"] for g in r["games"])["filed"] == 2
    begins = Counter(line.split()[1] for line in log.read_text().splitlines() if line.endswith("begin"))
    assert {begins[str(derive_seed(f"user: question {i}"))] for i in range(n)} == {2}  # greedy and sampled, once each
    passes = (run.marker("candidates") or {})["passes"] | (run.marker("selections") or {})["passes"]
    assert passes["generate-generator"]["resumed"] == stored * k
    together = passes["select-generator"]["shared"]  # one pass for what one engine does
    assert together.startswith("generate-generator+") and not run.exists("work", together)
    assert "lemonpress" in (run.read_text("report", "index.html") or "").lower()
    assert "hushhush" not in (run.read_text("config.yaml") or "") and os.environ["AWS_SECRET_ACCESS_KEY"] == "hushhush"
    capsys.readouterr()
    assert main(["report", f"out={bucket.uri('runs/whole')}"]) == 0  # config.yaml found on the store
    assert f"{bucket.name}/runs/whole/report" in capsys.readouterr().out
    assert load_config([run.uri("config.yaml")]).judge.audit == 0


def leave_lock_of_a_dead_process(run: RunFolder) -> None:
    """As a SIGKILL would."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = run.read_json("work", "lock.json")
    run.write_json({**lock, "released": False, "pid": dead.pid, "beat": time.time()}, "work", "lock.json")
