"""What a run tells about itself: histograms, log, manifest, Ray metrics."""

from __future__ import annotations

import json
import logging
import random
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.errors import LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.core.remote import model_commit
from pipeline.core.row import Row, RowError, Usage
from pipeline.execution.observe import Histogram, job_log
from pipeline.execution.progress import Counts, Reporter
from pipeline.jobs.job import job


def test_quantiles_are_close_and_merge_exactly() -> None:
    rng = random.Random(1)
    values = [rng.lognormvariate(0, 2) for _ in range(20_000)]
    whole, parts = Histogram(), [Histogram() for _ in range(7)]
    for i, value in enumerate(values):
        whole.add(value)
        parts[i % 7].add(value)
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.from_json(json.loads(json.dumps(part.to_json()))))
    assert merged == whole and len(whole.buckets) < 400
    for name, value in whole.quantiles().items():
        exact = np.quantile(values, float(name[1:]) / 100, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=0.023)
    assert Histogram().quantiles() == {}


def test_small_counts_and_zeros() -> None:
    h = Histogram()
    for value in (0, 0, 0, 4):
        h.add(value)
    assert h.quantiles() == {"p50": 0.0, "p90": pytest.approx(4, rel=0.023), "p99": pytest.approx(4, rel=0.023)}


class Sink:
    """In place of the counting actor."""

    def __init__(self) -> None:
        self.counts, self.events = Counts(), []
        self.add = self

    def remote(self, counts: Counts, events: list[dict[str, Any]]) -> None:
        self.counts.add(counts)
        self.events += events


def test_a_worker_reports_when_it_runs_dry_and_each_row_once() -> None:
    sink, flushed = Sink(), list[bool]()
    reporter = Reporter(sink, lambda: flushed.append(True))
    for _ in range(3):
        reporter.enter()
    usage = [Usage("j", "s", "m", 1, 10, 4, 2)]
    reporter.leave(Row(0, "a"), [], usage, 0.5)
    reporter.leave(Row(1, "b"), [RowError("j", "s", "Kind", "why")], usage, 0.5)
    reporter.rest()
    assert sink.counts.rows == 0 and not flushed  # one row is still in flight
    reporter.leave(Row(2, "c"), [], [], 2.0)
    reporter.rest()
    assert flushed
    c = sink.counts
    assert (c.rows, c.failed, c.tokens, c.prompt_tokens, c.cached_tokens) == (3, 1, 4, 20, 8)
    assert c.latency.quantiles()["p99"] == pytest.approx(2, rel=0.023)
    assert sink.events == [{"row_id": 1, "prompt_id": "b", "stage": "s", "kind": "Kind", "error": "why"}]


def test_events_are_bounded_and_the_rest_is_counted() -> None:
    from pipeline.execution.progress import ProgressActor

    actor = ProgressActor.__ray_metadata__.modified_class()
    event = {"row_id": 1}
    for _ in range(3):
        actor.add(Counts(), [event] * 400)
    events, dropped = actor.drain()
    assert (len(events), dropped) == (1000, 200)
    assert actor.drain() == ([], 0)


def test_the_log_of_each_attempt_is_a_file_of_json_lines(run: RunFolder) -> None:
    logger = logging.getLogger("pipeline.some.module")
    before = logging.getLogger("pipeline").level
    for text in ("one", "two \N{SNOWMAN} \ud800"):
        with job_log(run, "select", "r1"):
            logger.info(text, extra={"fields": {"prompt_id": "p1", "row_id": 1}})
            logger.debug("not this")
    logger.warning("nor this")
    assert logging.getLogger("pipeline").level == before
    files = sorted(Path(run.path("logs")).iterdir())
    assert [f.name for f in files] == ["select-1.jsonl", "select-2.jsonl"]
    lines = [json.loads(line) for f in files for line in f.read_text(encoding="utf-8").splitlines()]
    assert [line["message"][:3] for line in lines] == ["one", "two"]
    assert {k: lines[1][k] for k in ("run", "job", "attempt", "level", "logger", "prompt_id", "row_id")} == {
        "run": "r1",
        "job": "select",
        "attempt": 2,
        "level": "info",
        "logger": "pipeline.some.module",
        "prompt_id": "p1",
        "row_id": 1,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", lines[0]["time"])


def test_the_manifest_tells_how_jobs_ended(tmp_path: Path) -> None:
    config: Config = load_config(["dummy", f"out={tmp_path}"])
    run = RunFolder(config.out)
    with pytest.raises(LemonpressError), job("generate", config):
        running = run.read_json("manifest.json")
        raise LemonpressError("no luck with https://me:hunter2@host")
    failed = run.read_json("manifest.json")
    with pytest.raises(KeyboardInterrupt), job("generate", config):
        raise KeyboardInterrupt
    with job("select", config):
        pass
    done = run.read_json("manifest.json")
    assert running["jobs"]["generate"]["state"] == "running"
    entry = failed["jobs"]["generate"]
    assert (entry["state"], entry["attempts"], entry["log"]) == ("failed", 1, "logs/generate-1.jsonl")
    assert entry["error"] == "LemonpressError: no luck with https://***@host"
    assert done["jobs"]["generate"]["state"] == "interrupted" and done["jobs"]["generate"]["attempts"] == 2
    assert done["jobs"]["select"]["state"] == "done" and done["run_id"] == failed["run_id"]
    assert done["engines"]["judge"] == {"kind": "dummy", "model": "dummy-judge", "revision": None, "commit": None}
    assert set(done["templates"]) == {"judge", "selectors.judge", "selectors.chops"}
    assert re.fullmatch("[0-9a-f]{12}", done["templates"]["judge"]["pairwise"])
    assert "ray" in done["packages"]


def test_the_commit_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    first = model_commit(str(folder))
    assert first is not None and first == model_commit(str(folder))
    (folder / "model.safetensors").write_bytes(b"xy")
    assert model_commit(str(folder)) != first
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("0123abcd\n")
    assert model_commit("org/name") == "0123abcd" and model_commit("org/name", "v2") is None


@pytest.mark.ray
def test_a_real_pass_leaves_log_histograms_and_metrics(
    ray_cluster: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    words = ["dummy", "prompts.limit=14", "engines.generator.latency=0.1", "execution.progress=false"]
    words += ["engines.generator.fail=sky|Himmel|ciel", f"out={tmp_path}", "engines.generator.slots=4"]
    code = main(["generate", *words])
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    run = RunFolder(str(tmp_path))
    manifest = run.read_json("manifest.json")
    done = manifest["passes"]["generate-generator"]
    assert (code, done["rows"], done["failed"], manifest["tables"]) == (0, 14, 4, {"prompts": 14, "candidates": 14})

    rows = run.table("candidates", ["row_id", "prompt_id", "errors", "usage"]).to_pylist()
    failed = {r["prompt_id"]: r["row_id"] for r in rows if r["errors"]}
    lines = [json.loads(line) for line in Path(run.path("logs", "generate-1.jsonl")).read_text().splitlines()]
    told = {line["prompt_id"]: line["row_id"] for line in lines if "prompt_id" in line}
    assert told == failed and {line["run"] for line in lines} == {manifest["run_id"]}
    assert all(
        line["pass"] == "generate-generator" and "told to fail" in line["error"] for line in lines if "kind" in line
    )
    assert len([text for text in said if "told to fail" in text]) == 4

    tokens = sorted(sum(u["completion_tokens"] for u in r["usage"]) for r in rows)
    assert done["row_tokens"]["p50"] == pytest.approx(tokens[6], rel=0.023)
    latency = done["row_seconds"]
    assert 0.005 < latency["p50"] <= latency["p90"] <= latency["p99"] < 60
    load = done["load"]
    assert load["capacity"] == 4 and 0 < load["full"] <= 1 and max(v or 0 for v in load["high"]) == 4
    assert 0.5 * 14 * 5 * 0.05 / 4 < done["span_seconds"] < done["seconds"]

    port = ray.nodes()[0]["MetricsExportPort"]
    found: dict[str, float] = {}
    until = time.monotonic() + 40
    while time.monotonic() < until and len(found) < 2:
        time.sleep(0.5)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = metric(text, manifest["run_id"])
    assert found == {"ok": 10, "failed": 4}


def metric(text: str, run_id: str) -> dict[str, float]:
    """``lemonpress_rows`` of one run by outcome, from Prometheus' text format."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if re.match(r"\w*lemonpress_rows(_total)?\{", line) and f'"{run_id}"' in line:
            outcome = re.search('outcome="([a-z]+)"', line)
            assert outcome
            found[outcome[1]] = found.get(outcome[1], 0) + float(line.rsplit(" ", 1)[1])
    return found
