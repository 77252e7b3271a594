"""``lemonpress retry``: failed rows go through the jobs again, each from where it failed, and no other row does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.layers import LAYER, Layer
from pipeline.core.schema import COLUMNS
from pipeline.execution import summary
from pipeline.execution.control import LEDGER
from pipeline.jobs import generate, judge, retry, select
from pipeline.jobs.retry import failed_rows
from pipeline.jobs.steps import RETRY
from tests.conftest import rows_of
from tests.tables import write_table as write

ROWS = 24
JOBS = {"generate": "candidates", "select": "selections", "judge": "games"}
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
    return {table: rows_of(run, table, *columns) for table in JOBS.values()}


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
    starts = {job: set(failed_rows(run, job).tolist()) for job in JOBS}
    assert starts["generate"] == NO_GENERATE | TOO_LONG
    assert starts["select"] == NO_REWARD
    assert starts["judge"] == NO_JUDGE
    words = [*(f"engines.{name}.fail=null" for name in ("generator", "reward", "judge"))]
    words.append("engines.generator.truncate_prompt=true")

    finish = summary.finish_table

    def killed(folder: RunFolder, table: str, *rest: Any) -> Any:
        if table == "games":
            raise KeyboardInterrupt
        return finish(folder, table, *rest)

    with monkeypatch.context() as patch:  # interrupted before the last table was finished
        patch.setattr(summary, "finish_table", killed)
        assert main(["retry", run.name, *words]) == 130
    assert tables(run)["games"] == before["games"]
    assert main(["select", str(tmp_path / "run.yaml")]) == 2  # nothing else goes on before the retry has ended
    assert "a retry is half done; finish it first: lemonpress retry" in capsys.readouterr().err
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

    for job, table in JOBS.items():  # so the run goes on: no pass says any more that too many rows failed
        jobs = [{e["job"] for e in r["errors"]} for r in after[table]]
        failures = [s["failed"] for s in (run.marker(table) or {})["passes"].values()]
        assert set(failures) == {sum(job in j for j in jobs)} == {0}
    ledger = run.read_json(*LEDGER)
    assert all(ledger[name] == entry for name, entry in paid.items())
    again = {name: entry["tokens"] for name, entry in ledger.items() if name not in paid}
    assert again and all(tokens > 0 for tokens in again.values()), again
    assert not run.exists(*RETRY)
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
    write(run, "games", rows)
    found = {job: failed_rows(run, job).tolist() for job in JOBS}
    assert found == {"generate": [1, 3, 10], "select": [5, 6], "judge": [8, 10]}
    layer = Layer("games", "judge-judge", 0, "judge")
    run.write_json(layer.as_json(), "games", layer.name, LAYER)
    again = {job: ids.tolist() for job, ids in retry._retried(run, list(JOBS)).rows.items()}
    assert again == {"generate": [1, 3, 10], "select": [1, 3, 5, 6, 10], "judge": [1, 3, 5, 6, 8, 10]}


def test_no_run_and_half_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["retry", "seed=1"]) == 2
    path = settings(tmp_path, "run", broken=False)
    run = RunFolder(str(tmp_path / "run"))
    run.write_text(path.read_text(), "config.yaml")
    assert main(["retry", run.name]) == 2
    assert "no job is finished" in capsys.readouterr().err


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
def test_rows_that_failed_in_a_run_that_was_extended_are_retried_whole(tmp_path: Path) -> None:
    """A larger N and another selector came after the failure: the retried rows have them, too."""
    path = settings(tmp_path, "run", broken=True)
    words = ["sampling.n=5", "selectors.random={}"]
    run = make(path)
    for job in ("generate", "select", "judge"):
        assert main([job, str(path), *words]) == 0
    mended = [*(f"engines.{name}.fail=null" for name in ("generator", "reward", "judge"))]
    assert main(["retry", run.name, *mended, "engines.generator.truncate_prompt=true"]) == 0
    whole = settings(tmp_path, "whole", broken=False)
    for job in ("generate", "select", "judge"):
        assert main([job, str(whole), *words]) == 0
    now, wanted = tables(run), tables(RunFolder(str(tmp_path / "whole")))
    nested = ("candidates", "scores", "selections", "games")
    for table in now:
        for rows in (now[table], wanted[table]):
            for each in rows:
                each.update({name: sorted(each[name], key=repr) for name in nested if each.get(name)})
        assert now[table] == wanted[table], table


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
def test_half_a_job_is_finished_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(settings(tmp_path, "run", broken=True))
    Path(run.files("games")[0]).unlink()
    run.remove_file("games", "_complete.json")
    assert main(["retry", run.name]) == 0  # of the finished ones
    capsys.readouterr()
    Path(run.files("selections")[0]).unlink()
    assert main(["retry", run.name]) == 2
    assert "selections" in capsys.readouterr().err
