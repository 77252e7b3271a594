"""One small run on real engines and real Ray (fixture ``real_run``), from prompts to report, checked for content."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import RealRun, rows_of

METHODS = {"sample", "greedy", "likelihood", "mbr"}

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.timeout(1200)]


@pytest.fixture
def candidates(real_run: RealRun) -> list[dict[str, Any]]:
    return rows_of(real_run.folder, "candidates", "prompt_id", "cluster_id", "language", "candidates")


@pytest.fixture
def games(real_run: RealRun) -> list[dict[str, Any]]:
    return rows_of(real_run.folder, "games", "selections", "scores", "games", "usage", "errors")


def test_candidates(candidates: list[dict[str, Any]]) -> None:
    assert len(candidates) == 4
    assert {r["language"] for r in candidates} == {"en", "ja"}
    assert len({r["cluster_id"] for r in candidates}) == 2
    for row in candidates:
        assert [c["origin"] for c in row["candidates"]] == ["greedy", "sample", "sample"]
        for c in row["candidates"]:
            assert c["text"]
            assert c["finish_reason"] in ("stop", "length")
            assert c["logprob"] < 0
            assert 0 < c["num_tokens"] <= 10
            assert (c["seed"] is None) == (c["origin"] == "greedy")


def test_selections(games: list[dict[str, Any]]) -> None:
    for row in games:
        assert {s["method"] for s in row["selections"]} == METHODS
        assert {s["scorer"] for s in row["scores"]} >= {"likelihood", "mbr"}
        assert row["errors"] == []


def test_games(games: list[dict[str, Any]]) -> None:
    for row in games:
        audited = {g["opponent"] for g in row["games"] if g["system"] == "audit:original"}
        assert {"audit:identical", "audit:shuffled", "audit:language"} <= audited  # too short to be truncated, some
        orders = Counter((g["system"], g["order"]) for g in row["games"] if g["system"] != "audit:original")
        assert orders == {(f"hedged/{m}", o): 1 for m in METHODS - {"sample"} for o in ("ab", "ba")}
    judged = [g for row in games for g in row["games"] if g["mass"] is not None]
    assert judged and all(0 <= g["mass"] <= 1.001 for g in judged)
    assert sum(g["mass"] > 0.5 for g in judged) / len(judged) > 0.8  # the template keeps the mass on its labels


def test_numbers(real_run: RealRun) -> None:
    rates = pq.read_table(real_run.folder.path("winrates.parquet"))
    names = "system opponent language n_prompts n_games n_invalid win_rate se ci_low ci_high signature"
    assert " ".join(rates.column_names) == names
    assert {"all", "macro", "en", "ja"} == set(rates["language"].to_pylist())
    graded = pq.read_table(real_run.folder.path("audit.parquet")).to_pylist()
    assert {r["grade"] for r in graded if r["language"] == "all"} == {"unknown"}  # two clusters decide nothing


def test_page(real_run: RealRun, candidates: list[dict[str, Any]]) -> None:
    page = real_run.folder.read_text("report", "index.html") or ""
    for row in candidates:
        text = row["candidates"][0]["text"].strip().split("\n")[0][:20]
        assert json.dumps(text)[1:-1] in page or text.replace("&", "&amp;").replace("'", "&#39;") in page
    assert 'lang="ja"' in page
    assert "<svg" in page


def test_manifest_and_config(real_run: RealRun) -> None:
    manifest = real_run.folder.read_json("manifest.json")
    assert {"generate-generator", "select-cpu", "judge-judge"} <= manifest["passes"].keys()
    starts = sum(not p["shared"] for p in manifest["passes"].values() if p["engine"])
    assert starts == 2  # the audit picks its answers from all rows, so it waits for them
    assert real_run.folder.exists("config.yaml")


def test_a_second_command_finds_everything_done(real_run: RealRun, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(real_run.words) == 0  # no engine starts
    assert capfd.readouterr().out.count("done before") == 2
