"""``lemonpress retry``: failed rows go through the jobs again, each from where it failed, and no other row does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import LemonpressError, ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.schema import COLUMNS
from pipeline.execution.control import LEDGER
from pipeline.jobs import generate, judge, retry, select
from pipeline.jobs.retry import _is_half_done
from pipeline.jobs.subset import FOLDER, Retry, Step, failed_rows
from tests.conftest import rows_of
from tests.tables import write_table as write

ROWS = 24
STEPS = [
    Step("generate", "prompts", "candidates"),
    Step("select", "candidates", "selections"),
    Step("judge", "selections", "games"),
]
NO_GENERATE, NO_REWARD, NO_JUDGE, TOO_LONG = {10, 11}, {2}, {3, 4}, {20}
"""Rows of the run whose requests fail; 10 fails in every engine."""


def settings(folder: Path, out: str, broken: bool) -> Path:
    """A config file: 24 prompts, one row unreadable, one longer than the context, three engines that refuse some."""
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        texts = [f"question {i}" + " word" * 50 * (i in TOO_LONG) for i in range(ROWS)]
        prompts.write_text(
            "".join(json.dumps({"prompt": text if i != 7 else ""}) + "\n" for i, text in enumerate(texts))
        )
    fail = {"generator": "question 1[01]$", "reward": "question (2|10)$", "judge": r"question (3|4|10)\n"}
    engines = {
        name: {"kind": "dummy", "model": name, "log": str(folder / f"{out}-{name}.log")}
        | ({"fail": fail[name]} if broken else {})
        for name in fail
    }
    engines["generator"] |= {"max_model_len": 40, "truncate_prompt": not broken}
    config = {
        "out": str(folder / out),
        "prompts": {"kind": "file", "path": str(prompts)},
        "engines": engines,
        "sampling": {"kind": "hedged", "n": 3, "max_tokens": 16},
        "selectors": {"sample": {}, "best_of_n": {"engine": "reward"}},
        "judge": {"engine": "judge", "opponent": "sample", "audit": 0},
        "execution": {"progress": False},
    }
    path = folder / f"{out}.yaml"
    path.write_text(json.dumps(config))
    return path


def make(path: Path) -> RunFolder:
    config = load_config([str(path)])
    for job in (generate, select, judge):
        job.run(config)
    return RunFolder(config.out)


def tables(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    columns = [name for name in COLUMNS if name not in ("row_id", "usage")] + ["source"]
    return {step.writes: rows_of(run, step.writes, *columns) for step in STEPS}


def begun(folder: Path, out: str) -> dict[str, Counter[str]]:
    """Engine -> hash of a prompt -> requests."""
    found = {}
    for path in sorted(folder.glob(f"{out}-*.log")):
        lines = [line.split() for line in path.read_text().splitlines()]
        found[path.stem.removeprefix(f"{out}-")] = Counter(line[1] for line in lines if line[2] == "begin")
    return found


def asked(*numbers: int) -> set[str]:
    return {str(derive_seed(f"user: question {i}")) for i in numbers}


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
def test_a_retry_gives_the_tables_of_an_undisturbed_run_and_asks_for_the_failed_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make(settings(tmp_path, "whole", broken=False))
    run = make(settings(tmp_path, "run", broken=True))
    before, requests, paid = tables(run), begun(tmp_path, "run"), run.read_json(*LEDGER)
    starts = {step.job: set(failed_rows(run, step).tolist()) for step in STEPS}
    assert starts["generate"] == NO_GENERATE | TOO_LONG
    assert starts["select"] == NO_REWARD
    assert starts["judge"] == NO_JUDGE
    words = [*(f"engines.{name}.fail=null" for name in ("generator", "reward", "judge"))]
    words.append("engines.generator.truncate_prompt=true")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # interrupted after two of three jobs: nothing is changed yet
        patch.setitem(retry._JOBS, "judge", killed)
        assert main(["retry", run.name, *words]) == 130
    assert tables(run) == before
    between = begun(tmp_path, "run")
    assert main(["retry", run.name, *words]) == 0
    assert "retried 6 rows: 6 are mended, 0 failed again" in capsys.readouterr().out

    after, wanted = tables(run), tables(whole)
    failed = NO_GENERATE | TOO_LONG | NO_REWARD | NO_JUDGE
    for name, rows in after.items():
        assert rows == wanted[name], name
        assert [r for i, r in enumerate(rows) if i not in failed] == [
            r for i, r in enumerate(before[name]) if i not in failed
        ]
    assert [e["kind"] for r in after["games"] for e in r["errors"]] == ["BadPrompt"]
    done = {name: found - requests[name] for name, found in begun(tmp_path, "run").items()}
    assert (between["generator"] - requests["generator"]) == done["generator"]  # not asked again after the interruption
    assert len(done["generator"]) == 3 and asked(10, 11) < set(done["generator"])
    assert done["generator"].total() == 3 * 2  # greedy, and the samples in one request
    assert asked(2, 10, 11) < set(done["reward"]) and len(done["reward"]) == 4
    games = [g for i, r in enumerate(after["games"]) if i in failed for g in r["games"]]
    assert done["judge"].total() == sum(g["mass"] is not None for g in games) > 0
    counts = {name: f"{found.total()} of the run's {requests[name].total()}" for name, found in done.items()}
    with capsys.disabled():
        print("\nrequests of the retry:", counts)

    for step in STEPS:  # so the run goes on: no pass says any more that too many rows failed
        marker = run.marker(step.writes) or {}
        jobs = [{e["job"] for e in r["errors"]} for r in after[step.writes]]
        assert [s["failed"] for s in marker["passes"].values()] == [sum(step.job in j for j in jobs)] == [0]
        assert marker["summary"]["failed"] == 0
    ledger = run.read_json(*LEDGER)
    spent = {name: ledger[name]["tokens"] - entry["tokens"] for name, entry in paid.items()}
    assert all(tokens > 0 for tokens in spent.values()), spent
    assert not run.exists(*FOLDER)
    manifest = run.read_json("manifest.json")
    assert [r["rows"] for r in manifest["retries"].values()] == [6]
    total = begun(tmp_path, "run")
    make(settings(tmp_path, "run", broken=True))  # the run counts as finished still
    assert main(["retry", run.name]) == 0
    assert "no row failed" in capsys.readouterr().out
    assert begun(tmp_path, "run") == total
    with pytest.raises(ResumeError, match=r'(?s)differ from the others.*"seed": 1.*"seed": 5'):
        retry.run(run.name, ["seed=5"])


# ------------------------------------------------------------------------------------------- without Ray


def row(i: int, **columns: Any) -> dict[str, Any]:
    base = {"row_id": i, "prompt_id": f"p{i}", "candidates": [], "selections": [], "games": [], "errors": []}
    return base | columns


def test_what_is_a_failure_of_which_job(run: RunFolder) -> None:
    def error(job: str) -> dict[str, str]:
        return {"job": job, "stage": "s", "kind": "K", "message": "m"}

    rows = [
        row(0),
        row(1, errors=[error("generate")]),
        row(2, errors=[error("prompts"), error("generate")]),  # cannot be mended
        row(3, candidates=[{"text": "a", "origin": "greedy"}, {"origin": "sample", "error": "HTTP 500"}]),
        row(4, candidates=[{"origin": "given", "error": "no answer in the file"}]),
        row(5, errors=[error("select")]),
        row(6, selections=[{"detail": '{"failure": "refused"}'}]),
        row(7, selections=[{"detail": '{"invalid": 3, "fallback": "no valid verdict"}'}, {"detail": "no JSON"}]),
        row(8, games=[{"verdict": "invalid", "reason": "judge failed: HTTP 429"}]),
        row(9, games=[{"verdict": "invalid", "reason": None}, {"verdict": "win", "reason": "judge failed: said A"}]),
        row(10, errors=[error("judge")], candidates=[{"origin": "sample", "error": "x"}]),
    ]
    for step in STEPS:
        write(run, step.writes, rows)
    found = {step.job: failed_rows(run, step).tolist() for step in STEPS}
    assert found == {"generate": [1, 3, 10], "select": [5, 6], "judge": [8, 10]}
    assert {job: ids.tolist() for job, ids in Retry(run, STEPS).starts.items()} == {**found, "judge": [8]}


def test_a_lost_row_is_noticed_before_anything_changes(run: RunFolder) -> None:
    bad = [{"origin": "sample", "error": "x"}]
    for table in ("prompts", "candidates"):
        write(run, table, [row(i, candidates=bad) for i in range(3)])
    begun = Retry(run, STEPS[:1])
    begun.begin()
    write(begun.work, "candidates", [row(i) for i in range(2)])
    with pytest.raises(LemonpressError, match="3 rows went in, 2 came out for candidates"):
        begun.finish()
    assert len(failed_rows(run, STEPS[0])) == 3
    write(begun.work, "candidates", [row(i) for i in range(3)])
    begun.finish()
    assert len(failed_rows(run, STEPS[0])) == 0 and run.dataset("candidates").count_rows() == 3
    assert run.marker("candidates")["folder"] == "v2"


def test_a_table_gets_no_rows_that_it_does_not_have_yet(run: RunFolder) -> None:
    """Prompts were added and generated, but not selected from; one of the new ones failed."""
    bad = [{"origin": "sample", "error": "x"}]
    for table, rows in (("prompts", 6), ("candidates", 6), ("selections", 4)):
        write(run, table, [row(i, candidates=bad if i in (1, 5) else []) for i in range(rows)])
    begun = Retry(run, STEPS[:2])
    assert begun.starts["generate"].tolist() == [1, 5]
    begun.begin()
    for table in ("candidates", "selections"):
        write(begun.work, table, [row(i) for i in range(2)])
    begun.finish()
    assert sorted(r["row_id"] for r in rows_of(run, "candidates", "prompt_id")) == list(range(6))
    assert sorted(r["row_id"] for r in rows_of(run, "selections", "prompt_id")) == list(range(4))


def test_an_unfinished_extension_is_no_finished_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it has made durable would go with the version that a retry replaces."""
    run = RunFolder(str(tmp_path / "run"))
    run.write_text(settings(tmp_path, "run", broken=False).read_text(), "config.yaml")
    write(run, "candidates", [row(0)], version=2)
    for base, code in ((1, 0), (2, 2)):  # towards a version that is there, left by a crash; and towards the next one
        run.write_json({"fingerprint": {"base": base}}, "work", "generate-generator", "state.json")
        assert _is_half_done(run, STEPS[0]) == bool(code)
    assert main(["retry", run.name]) == 2
    assert "generate is half done" in capsys.readouterr().err


def test_no_run_and_half_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["retry", "seed=1"]) == 2
    path = settings(tmp_path, "run", broken=False)
    run = RunFolder(str(tmp_path / "run"))
    run.write_text(path.read_text(), "config.yaml")
    assert main(["retry", run.name]) == 2
    assert "no job is finished" in capsys.readouterr().err
    write(run, "candidates", [row(0)])
    run.write_json({}, "work", "select-reward", "state.json")
    assert main(["retry", run.name]) == 2
    assert "select is half done" in capsys.readouterr().err
