"""Unreadable verdicts and fallbacks: counted per method after `select` and in the report, and left out beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.errors import TooManyFailedRows
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.row import Row
from pipeline.jobs import select
from pipeline.report.collect import collect
from pipeline.report.render import render_html, render_markdown
from pipeline.stats.counts import Choices, count_choices
from pipeline.stats.games import games_from_table
from tests.report.runs import Page, config_with, pct, rows_for, write_run
from tests.stats.tables import winrates

DETAILS: dict[int, dict[str, Any]] = {
    0: {"verdicts": 4, "invalid": 4, "failure": "refused", "fallback": "no valid verdict"},
    1: {"verdicts": 4, "invalid": 1, "bars_lifted": [0, 1]},
    2: {"invalid": 2, "failed": 2, "failure": "refused", "barred": [1]},
    3: {"verdicts": 2, "invalid": 2, "fallback": "unreadable verdict"},
}
"""By row_id % 4: what ``mbr`` recorded."""


def detailed_rows(questions: int) -> list[dict[str, Any]]:
    """Rows whose ``mbr`` has ``DETAILS``, and takes greedy and loses where it fell back; nothing else has a detail."""
    rows = rows_for(questions)
    for row in rows:
        for chosen in row["selections"]:
            detail = DETAILS[row["row_id"] % 4] if chosen["method"] == "mbr" else {}
            chosen["detail"] = json.dumps({**detail, "matches": [{"verdicts": 99}]}) if detail else None
            if "fallback" in detail:
                chosen |= {"index": 0, "text": row["candidates"][0]["text"]}
                lost = {"verdict": "loss", "score": 0.0}
                row["games"] = [g | (lost if g["system"] == "hedged/mbr" else {}) for g in row["games"]]
    return rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return detailed_rows(4)


@pytest.fixture
def run(tmp_path: Path, rows: list[dict[str, Any]]) -> RunFolder:
    return write_run(tmp_path / "run", rows)


def test_counts(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Row] = []
    add = Choices.add

    def spy(self: Choices, row: Row) -> None:
        read.append(row)
        add(self, row)

    monkeypatch.setattr(Choices, "add", spy)
    found = {r.method: r for r in count_choices(run)}
    assert {c.text for row in read for c in row.candidates} == {None} and read[0].candidates[0].origin == "greedy"
    mbr = found["mbr"]
    assert (mbr.n, mbr.greedy) == (28, 14)
    assert (mbr.verdicts, mbr.invalid, mbr.failed, mbr.lifted) == (7 * 10, 7 * 9, 7 * 3, 7)
    assert mbr.fallbacks == 14
    greedy = found["greedy"]
    assert (greedy.n, greedy.greedy, greedy.verdicts, greedy.invalid, greedy.failed) == (28, 28, None, 0, 0)


def test_details_of_a_users_own_selector_are_no_error(tmp_path: Path) -> None:
    rows = rows_for(1)
    odd = ["no JSON", "[1]", '{"verdicts": "many", "invalid": true, "failed": null, "fallback": ""}', "", '"fallback"']
    for row, detail in zip(rows, odd, strict=False):
        row["selections"][0]["detail"] = detail
    found = {r.method: r for r in count_choices(write_run(tmp_path / "run", rows), "games")}["sample"]
    assert (found.verdicts, found.invalid, found.failed, found.fallbacks) == (None, 0, 0, 0)


@pytest.mark.parametrize("failed", [False, True])
def test_select_ends_with_the_table(
    run: RunFolder, failed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def passes(*_: Any) -> None:
        if failed:
            raise TooManyFailedRows("too many")

    monkeypatch.setattr(select, "run_steps", passes)
    if failed:
        with pytest.raises(TooManyFailedRows):
            select.run(config_with(out=run.name))
    else:
        select.run(config_with(out=run.name))
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["hedged", "mbr", "28", "50%", "70", "63", "21", "14", "7"] in cells
    assert ["hedged", "greedy", "28", "100%", "-", "0", "0", "0", "0"] in cells


def test_nothing_is_printed_while_selections_are_unfinished(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.fs.delete_file(run.path("selections", MARKER))
    select.print_choices(run)
    assert not capsys.readouterr().out


def readable_directly(rows: list[dict[str, Any]], system: str) -> dict[str, Any]:
    """The pooled win-rate from a flat table of the games on prompts without a fallback."""
    kept = [row for row in rows if "fallback" not in DETAILS[row["row_id"] % 4]]
    games = [
        {"prompt_id": row["prompt_id"], "cluster_id": row["cluster_id"], "language": row["language"], **game}
        for row in kept
        for game in row["games"]
        if game["system"] == system
    ]
    found = winrates(games_from_table(pa.Table.from_pylist(games)), draws=200)
    return next(r for r in found if r["language"] == "all")


def test_the_report_shows_the_win_rate_without_fallbacks(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    report = collect(run, config_with())
    direct = readable_directly(rows, "hedged/mbr")
    standings = {s.system: s for s in report.contests[0].standings}
    readable = standings["hedged/mbr"].readable
    assert readable is not None and readable.n_prompts == direct["n_prompts"] == 14
    assert (readable.win_rate, readable.ci_low, readable.ci_high) == (
        direct["win_rate"],
        direct["ci_low"],
        direct["ci_high"],
    )
    assert readable.win_rate != standings["hedged/mbr"].pooled.win_rate
    assert "|fallbacks:left_out|v:" in readable.signature
    shown = f"{pct(direct['win_rate'])} ({100 * direct['ci_low']:.1f}–{100 * direct['ci_high']:.1f}%), n = 14"
    page = Page(render_html(report))
    assert page.row("mbr")[4] == shown and readable.signature in page.plain
    assert page.row("greedy")[4] == "– (no fallback, nothing left out)"
    assert "Leaving prompts out is a selection of its own" in page.plain
    start = next(i for i, r in enumerate(page.rows) if r[:1] == ["Selector"])
    choices = {r[0].split()[0]: [" ".join(c.split()) for c in r] for r in page.rows[start + 1 : start + 6]}
    assert choices["mbr"][5:] == ["14", "0", "70", "63", "21", "7"]
    assert choices["greedy"][5:] == ["0", "0", "– (records no number of verdicts)", "0", "0", "0"]
    text = render_markdown(report)
    assert f"| {shown} |" in text and "Leaving prompts out is a selection of its own" in text
    line = next(line for line in text.splitlines() if line.startswith("| greedy | ") and "%" in line)
    assert [c.strip() for c in line.split("|")][5] == "–"
    header = next(line for line in text.splitlines() if "Without fallbacks |" in line)
    assert header.count("|") == line.count("|")


def test_a_system_that_always_fell_back_has_no_win_rate_without_them(tmp_path: Path) -> None:
    rows = rows_for(3)  # best_of_n falls back everywhere
    report = collect(write_run(tmp_path / "run", rows), config_with())
    standing = next(s for s in report.contests[0].standings if s.system == "hedged/best_of_n")
    assert standing.readable is None and standing.always_fell_back
    assert Page(render_html(report)).row("best_of_n")[4] == "– (its selector fell back on every prompt)"


def test_without_fallbacks_and_unreadable_verdicts_there_is_no_column(tmp_path: Path) -> None:
    rows = rows_for(3)
    for row in rows:
        for chosen in row["selections"]:
            chosen["detail"] = None
    report = collect(write_run(tmp_path / "run", rows), config_with())
    assert "Without fallbacks" not in render_html(report) + render_markdown(report)
