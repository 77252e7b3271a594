"""``lemonpress errors``: causes, counts and prompt ids of everything that failed in a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.folder import RunFolder
from pipeline.stats import failures
from pipeline.stats.failures import find_failures
from tests.conftest import rows_of
from tests.tables import write_table as write

TEXT = "A SECRETLY LONG ANSWER"


def error(kind: str, message: str, job: str = "generate", stage: str = "generate:hedged") -> dict[str, str]:
    return {"job": job, "stage": stage, "kind": kind, "message": message}


def row(i: int, **columns: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"row_id": i, "prompt_id": f"p{i}", "messages": [{"role": "user", "content": TEXT}]}
    return base | {"candidates": [], "selections": [], "games": [], "errors": []} | columns


def game(verdict: str, reason: str | None) -> dict[str, Any]:
    return {
        "system": "hedged/a",
        "opponent": "hedged/b",
        "judge": "j",
        "order": "ab",
        "verdict": verdict,
        "reason": reason,
    }


@pytest.fixture
def failed_run(run: RunFolder) -> RunFolder:
    rows = [row(i) for i in range(20)]
    for i in range(5):
        rows[i]["errors"] = [error("PromptTooLong", f"the request has {4000 + i} tokens, but the model takes 1023")]
    rows[5]["errors"] = [error("BadPrompt", "messages[0].role is '\x1b[31mhuman'", "prompts", "read")]
    rows[6]["errors"] = [error("BadPrompt", "messages[1].role is '[bold]'", "prompts", "read")]
    rows[7]["candidates"] = [
        {"text": TEXT, "plan": "hedged", "error": None},
        {"text": None, "plan": "hedged", "error": "HTTP 500: 12 times"},
    ]
    details = [{"failure": "refused", "fallback": "no valid verdict", "invalid": 3}, {"invalid": 2}, {"invalid": 0}]
    for i, detail in enumerate(details, 8):
        rows[i]["selections"] = [
            {"plan": "hedged", "method": "mbr", "index": 0, "text": TEXT, "detail": json.dumps(detail)}
        ]
    rows[11]["games"] = [game("invalid", "judge failed: HTTP 429"), game("invalid", TEXT), game("win", None)]
    write(run, "candidates", rows[:8])
    write(run, "games", rows)
    return run


def test_causes_are_counted_with_their_prompts_and_no_text_is_read(
    failed_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    leaves = RunFolder.leaves

    def spy(self: RunFolder, table: str, wanted: Any, batch_size: int = 256) -> Any:
        def noted(name: str, leaf: str) -> bool:
            if wanted(name, leaf):
                read.add(f"{name}.{leaf}")
                return True
            return False

        return leaves(self, table, noted, batch_size)

    monkeypatch.setattr(RunFolder, "leaves", spy)
    table, found = find_failures(failed_run)
    assert not {r for r in read if r.endswith(".text") or r.endswith(".content")} and "errors.message" in read
    assert (table, found.rows, found.failed) == ("games", 20, 7)
    causes = {(c.what, c.stage, c.kind): (c.count, c.prompts) for c in found.found}
    assert causes == {
        ("row", "generate:hedged", "PromptTooLong"): (5, ["p0", "p1", "p2"]),
        ("row", "read", "BadPrompt"): (2, ["p5", "p6"]),
        ("candidate", "generate:hedged", "RequestFailed"): (1, ["p7"]),
        ("selection", "select:mbr", "RequestFailed"): (1, ["p8"]),
        ("selection", "select:mbr", "Fallback"): (1, ["p8"]),
        ("verdict", "select:mbr", "UnreadableVerdict"): (2, ["p9"]),
        ("verdict", "judge", "RequestFailed"): (1, ["p11"]),
        ("verdict", "judge", "UnreadableVerdict"): (1, ["p11"]),
    }
    assert found.found[0].example == "the request has 4000 tokens, but the model takes 1023"
    assert TEXT not in str(found.found)


def test_the_command_shows_them_harmlessly(failed_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", failed_run.name]) == 0
    shown = capsys.readouterr().out
    assert "7 of 20 rows carry an error" in shown and "source._original" in shown and "lemonpress retry" in shown
    assert "\x1b" not in shown and "␛[31mhuman" in shown  # data cannot speak to the terminal
    assert main(["errors", failed_run.name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["causes"][0]["count"] == 5


def test_very_many_different_causes_take_little_memory(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_MOST", 10)
    words = [f"{a}{b}" for a in "ghijklmnop" for b in "ghijklmnop"]
    write(run, "candidates", [row(i, errors=[error("E", word)]) for i, word in enumerate(words)])
    found = find_failures(run)[1].found
    assert len(found) == 11 and sum(c.count for c in found) == 100
    assert (found[-1].kind, found[-1].count) == ("(other)", 90)


def test_a_clean_run_and_no_run(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, "candidates", [row(0)])
    assert main(["errors", run.name]) == 0
    assert capsys.readouterr().out == "0 of 1 rows carry an error\n"
    assert main(["errors", str(tmp_path / "nothing")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["errors", str(tmp_path / "empty")]) == 2
    assert "no run here" in capsys.readouterr().err
    assert main(["errors"]) == 2


def test_a_finished_runs_fallbacks_are_no_failed_rows(finished: Path) -> None:
    """The other tables here are written by hand; these were made by the jobs."""
    run = RunFolder(str(finished))
    table, found = find_failures(run)
    assert (table, found.rows, found.failed) == ("games", 16, 0)
    chosen = [s for row in rows_of(run, "games", "selections") for s in row["selections"]]
    details = [(s["method"], json.loads(s["detail"] or "{}").get("fallback")) for s in chosen]
    stored = Counter((f"select:{method}", why) for method, why in details if why)
    assert {(c.stage, c.example): c.count for c in found.found if c.kind == "Fallback"} == stored
    assert stored["select:greedy", "no greedy candidate"] == 16  # the second set has none
