"""Methods that were not what their name says, and a fusor that is another model: said above the result, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.report.banners import warnings
from pipeline.report.collect import collect
from pipeline.report.model import Report
from pipeline.report.render import render_html, render_markdown
from pipeline.selection.one_pass import EMPTY_CHECKLIST
from pipeline.selection.xmbr import NO_EVIDENCE
from pipeline.stats.counts import count_choices
from tests.report.runs import CONFIG, Page, config_with, rows_for, write_run


def report_of(folder: Path, details: list[dict[str, Any]], **changes: Any) -> Report:
    """Row i's mbr has recorded details[i % len]."""
    rows = rows_for(3)
    for i, row in enumerate(rows):
        for chosen in row["selections"]:
            chosen["detail"] = json.dumps(details[i % len(details)]) if chosen["method"] == "mbr" else None
    return collect(write_run(folder / "run", rows), config_with(**changes))


def titles(report: Report) -> dict[str, str]:
    return {banner.title: banner.text for banner in warnings(report) if banner.level == "loud"}


def test_evidence_stands_in_the_table_of_choices(tmp_path: Path) -> None:
    report = report_of(tmp_path, [{"evidence": 3}, {"evidence": 0, "without": NO_EVIDENCE}])
    (row,) = [r for r in report.selectors if r.method == "mbr"]
    assert row.evidence and 0 < row.without < row.n and row.incomplete is None
    assert "A method without its main part" not in titles(report)
    table = Page(render_html(report)).rows
    start = next(i for i, r in enumerate(table) if r[:1] == ["Selector"])
    assert table[start][-2:] == ["|Z|", "Without a part"]
    cells = next(r for r in table[start:] if r and r[0].startswith("mbr"))
    assert cells[-2:] == [f"{row.evidence / row.n:.1f}", str(row.without)]
    lines = render_markdown(report).split("## What each selector chose")[1].splitlines()
    line = next(x for x in lines if x.startswith("| mbr |"))
    assert [c.strip() for c in line.split("|")][-3:-1] == cells[-2:]
    assert any(f.cause == NO_EVIDENCE and f.where == "select:mbr" for f in report.results.failures)


def test_no_evidence_at_all_is_loud(tmp_path: Path) -> None:
    for i, what in enumerate((NO_EVIDENCE, EMPTY_CHECKLIST)):
        report = report_of(tmp_path / str(i), [{"without": what}])
        assert what in titles(report)["A method without its main part"]
        assert what in render_html(report)


def test_a_fusor_that_is_another_model_is_said(tmp_path: Path) -> None:
    title = "The fusor is another model than the generator"

    def said(i: int, fusor: str, **plans: Any) -> str | None:
        engines = {**CONFIG["engines"], "fusor": {"kind": "dummy", "model": fusor}}
        selectors = {**CONFIG["selectors"], "fusion": {"engine": "fusor"}}
        changes = {"engines": engines, "selectors": selectors, "plans": plans}
        return titles(report_of(tmp_path / str(i), [{}], **changes)).get(title)

    assert said(0, CONFIG["engines"]["generator"]["model"]) is None
    assert "did not answer alone" in (said(1, "giant-111b") or "")
    alone = {"kind": "single", "engine": "fusor", "n": 1, "apart": True}
    assert "also answered alone" in (said(2, "giant-111b", alone=alone) or "")


def test_count_choices_is_what_select_prints(tmp_path: Path) -> None:
    rows = rows_for(2)
    for row in rows:
        for chosen in row["selections"]:
            chosen["detail"] = json.dumps({"evidence": 2})
    found = count_choices(write_run(tmp_path / "run", rows), "games")
    assert {r.share(r.evidence) for r in found} == {2.0}
