"""Runs and inputs on an S3-compatible server (moto's), started here on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.prompts import FileSource, RunSource, read_prompts
from pipeline.remote import local_copies
from pipeline.storage import RunFolder
from tests.conftest import ROOT, rows_of

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
    assert not run.exists("work") and run.read_json("work", "x.json") is None and run.data_files("prompts") == []
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
def test_a_whole_run_on_the_store_killed_once_and_resumed(bucket: Bucket, tmp_path: Path) -> None:
    """Prompts, outside answers, tables, checkpoints, lock and report are on the server; the driver dies half-way."""
    n, k = 48, 4
    answer = bucket.put(
        "in/answers.jsonl", "".join(json.dumps({"q": i, "text": f"reply {i}"}) + "\n" for i in range(n))
    )
    numbered = "".join(json.dumps({"prompt": f"question {i}", "language": "en", "q": str(i)}) + "\n" for i in range(n))
    prompts = bucket.put("in/prompts.jsonl", numbered)
    settings = f"""
out: "{bucket.uri("runs/whole")}"
prompts: {{kind: file, path: "{prompts}", columns: {{id: q}}}}
selectors: {{random: null, likelihood: null, best_of_n: null, judge: null, chops: {{engine: generator}}}}
answers: {{filed: {{kind: file, path: "{answer}", id: q}}}}
judge: {{audit: 0}}
winrate: {{draws: 200}}
execution: {{rows_per_checkpoint: {k}, progress: false, share_passes: true}}
engines: {{generator: {{latency: 0.3, pool: {{calls_per_actor: 4}}, log: "{tmp_path / "calls.log"}"}}}}
"""
    config = bucket.put("in/mine.yaml", settings)
    command = [sys.executable, "-m", "pipeline.cli", "run", "dummy", config]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = RunFolder(bucket.uri("runs/whole"))
    deadline = time.monotonic() + 120
    while not durable(run):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.marker("candidates") is None
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)

    rows = rows_of(run, "games", "prompt_id", "candidates", "selections", "answers", "games", "errors")
    assert [r["prompt_id"] for r in rows] == [str(i) for i in range(n)]
    for i, r in enumerate(rows):
        assert len(r["candidates"]) == 5 and not r["errors"]
        assert r["answers"] == [{"system": "filed", "text": f"reply {i}"}]
        assert Counter(g["system"] for g in r["games"])["filed"] == 2
    marker = run.marker("candidates")
    assert marker is not None and marker["summary"]["resumed"] >= k
    assert marker["summary"]["shared"] and not run.exists("work", marker["summary"]["shared"])
    print(f"resumed: {marker['summary']['resumed']} of {n} rows were durable at the kill")
    assert "lemonpress" in (run.read_text("report", "index.html") or "").lower()
    assert "hushhush" not in (run.read_text("config.yaml") or "") and os.environ["AWS_SECRET_ACCESS_KEY"] == "hushhush"
    again = [sys.executable, "-m", "pipeline.cli", "report", f"out={bucket.uri('runs/whole')}"]
    done = subprocess.run(again, cwd=ROOT, check=True, capture_output=True, text=True)  # config.yaml found on the store
    assert f"{bucket.name}/runs/whole/report" in done.stdout
    assert load_config([run.uri("config.yaml")]).judge.audit == 0


def durable(run: RunFolder) -> list[str]:
    """Committed blocks of the running pass, which generate and select share."""
    files = run.data_files("work/generate-generator+select-generator/checkpoint")
    return [f for f in files if ".pending" not in f]
