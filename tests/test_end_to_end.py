"""One small run on the real engine, from prompts to report, checked for content."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.storage import RunFolder
from tests.conftest import rows_of

METHODS = {"sample", "greedy", "likelihood", "mbr", "best_of_n", "chops"}


@pytest.mark.ray
@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_cluster", "chat_model", "reward_model")
def test_a_small_real_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["run", "demo", f"out={out}", "sampling.n=3", "sampling.max_tokens=10", "prompts.languages=[en,ja]"]
    words += ["selectors.random=null", "selectors.judge=null", "selectors.chops.checklist_tokens=12"]
    words += ["execution.progress=false"]
    assert main(words) == 0

    run = RunFolder(str(out))
    candidates = rows_of(run, "candidates", "prompt_id", "cluster_id", "language", "candidates")
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

    games = rows_of(run, "games", "selections", "scores", "games", "usage", "errors")
    for row in games:
        assert {s["method"] for s in row["selections"]} == METHODS
        assert {s["scorer"] for s in row["scores"]} >= {"likelihood", "mbr", "best_of_n"}
        audited = {g["opponent"] for g in row["games"] if g["system"] == "audit:original"}
        assert {"audit:identical", "audit:shuffled", "audit:language"} <= audited  # too short to be truncated, some
        orders = Counter((g["system"], g["order"]) for g in row["games"] if g["system"] != "audit:original")
        assert orders == {(f"hedged/{m}", o): 1 for m in METHODS - {"sample"} for o in ("ab", "ba")}
        judged = [g for g in row["games"] if g["mass"] is not None]
        assert all(0 <= g["mass"] <= 1.001 for g in judged)
        assert row["errors"] == []
    judged = [g for row in games for g in row["games"] if g["mass"] is not None]
    assert judged
    assert sum(g["mass"] > 0.5 for g in judged) / len(judged) > 0.8  # the template keeps the mass on its labels
    rewards = {v for row in games for s in row["scores"] if s["scorer"] == "best_of_n" for v in s["values"]}
    assert len(rewards) > 4

    rates = pq.read_table(out / "winrates.parquet")
    names = "system opponent language n_prompts n_games n_invalid win_rate se ci_low ci_high signature"
    assert " ".join(rates.column_names) == names
    assert {"all", "macro", "en", "ja"} == set(rates["language"].to_pylist())

    graded = pq.read_table(out / "audit.parquet").to_pylist()
    assert {r["grade"] for r in graded if r["language"] == "all"} == {"unknown"}  # two clusters decide nothing

    page = (out / "report" / "index.html").read_text()
    for row in candidates:
        text = row["candidates"][0]["text"].strip().split("\n")[0][:20]
        assert json.dumps(text)[1:-1] in page or text.replace("&", "&amp;").replace("'", "&#39;") in page
    assert 'lang="ja"' in page
    assert "<svg" in page
    manifest = run.read_json("manifest.json")
    assert set(manifest["passes"]) == {"generate-generator", "select-reward", "select-judge", "judge-judge"}
    assert "config.yaml" in {p.name for p in out.iterdir()}

    capfd.readouterr()
    assert main(words) == 0  # everything is finished: no engine starts
    assert capfd.readouterr().out.count("done before") == 4
