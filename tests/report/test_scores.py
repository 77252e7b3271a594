"""A run without games: what its task scores allow to claim, what they cost, and the plots of sampling.

What the page says in words is in golden/scores.md and golden/scores_plots.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.jobs import winrate
from pipeline.report.collect import collect
from pipeline.report.headline import headline, score_headline
from pipeline.report.model import Report
from pipeline.report.render import build_report, render_html, render_markdown
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.pools import load_quality
from pipeline.stats.quality import score_differences, scores
from tests.report.golden import above_agreement, assert_golden, numbers, shortened
from tests.report.runs import ATTACK, Page
from tests.report.translation import SOURCES, config, rows_for, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("scores") / "run", rows_for(10))


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Report:
    return collect(run, config())


@pytest.fixture(scope="module")
def parsed(report: Report) -> Page:
    return Page(render_html(report))


def test_its_words_are_the_reviewed_ones_and_page_and_markdown_agree(report: Report, parsed: Page) -> None:
    text = shortened(render_markdown(report), prompts=1)
    assert_golden("scores.md", text)
    plots = re.findall(r"<desc[^>]*>([^<]*)</desc>", render_html(report))
    assert_golden("scores_plots.md", "\n".join(plots) + "\n")
    assert numbers(above_agreement(text)) <= numbers(parsed.spaced)
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block[:200]


def test_the_winner_has_a_certain_gain_and_is_never_the_oracle(run: RunFolder, report: Report) -> None:
    task = report.tasks[0]
    assert task.systems[0] == "hedged/oracle"  # the best mean
    assert set(task.contenders) == {f"hedged/{s}" for s in ("mbr", "hedged_mbr", "greedy", "likelihood")}
    quality = load_quality(run, "games").tasks["translation"]
    methods = ("mbr", "hedged_mbr", "likelihood", "greedy")
    sets = {"hedged": methods, "cool": methods[:3], "hot": methods[:3]}
    pairs = [(f"{plan}/{m}", f"{plan}/sample") for plan, names in sets.items() for m in names]
    joint = {(d.system_a, d.system_b): d for d in score_differences(quality, "chrf", pairs, Bootstrap(200))}
    mine = joint[str(task.leader), "hedged/sample"]
    assert mine.ci_low is not None and mine.ci_low > 0
    theirs = task.get(str(task.leader))
    assert theirs is not None and (theirs.joint_low, theirs.joint_high) == (mine.ci_low, mine.ci_high)
    circular = report.circular(task)
    assert circular["chrf"] and not circular.get("bleu")  # MBR by chrF is on chrF's side


def test_table_of_scores(run: RunFolder, parsed: Page) -> None:
    table = {(r["system"], r["metric"]): r for r in _pooled(run)}
    for system in ("hedged/mbr", "hot/mbr", "copy_source"):
        chrf, bleu = table[system, "chrf"], table[system, "bleu"]
        cells = parsed.row(system + (" outside answer" if system == "copy_source" else ""))
        assert cells[1] == f"{100 * chrf['mean']:.1f}"
        assert cells[2] == f"{100 * chrf['ci_low']:.1f}–{100 * chrf['ci_high']:.1f}"
        assert cells[3] == f"{100 * chrf['difference']:+.1f}".replace("-", "−")
        assert cells[7] == f"{100 * bleu['mean']:.1f}" and cells[-1] == str(chrf["n_prompts"])
    assert parsed.row("hedged/mbr")[6] == f"{100 * table['hedged/mbr', 'chrf']['recovered']:.0f}%"
    wrong = 1 - table["hedged/oracle", "language"]["mean"]
    assert parsed.row("hedged/oracle upper bound")[9] == f"{100 * wrong:.1f}%"
    assert not re.search(r"\b(None|nan|NaN)\b", parsed.plain)


def test_the_share_whose_language_cannot_be_told_stands_beside_the_rate(tmp_path: Path) -> None:
    rows = rows_for(6)
    for row in rows:
        for score in row["scores"]:
            if (score["scorer"], score["plan"]) == ("metric:language", "hedged"):
                score["values"][0] = None  # greedy's text
                score["values"][4] = (None, 0.0, 1.0, 1.0)[row["row_id"] % 4]  # mbr's
    report = collect(write_run(tmp_path, rows), config())
    page, text = Page(render_html(report)), render_markdown(report)
    assert page.row("hedged/mbr")[9] == "33.3% (25.0% not told)"  # 9 wrong of 27 that are told, of 36
    assert page.row("hedged/greedy")[9] == "– (could not be told)"
    assert " 33.3% (25.0% not told) |" in text


def _pooled(run: RunFolder) -> list[dict[str, Any]]:
    rows = scores(load_quality(run, "games"), "sample", Bootstrap(200))
    return [vars(r) for r in rows if r.language == "all"]


def test_costs_are_attributed_to_the_candidates_that_a_selector_looks_at(report: Report, parsed: Page) -> None:
    cost = {c.system: c for c in report.results.system_costs}
    assert cost["hedged/sample"].tokens == 21 and cost["hedged/greedy"].tokens == 20
    assert cost["hedged/mbr"].tokens == sum(range(21, 29))  # origins: [sample]
    assert cost["hedged/hedged_mbr"].tokens == sum(range(20, 29))
    mbr = cost["hedged/mbr"]
    assert mbr.gain is not None and mbr.tokens_per_point == pytest.approx((196 - 21) / mbr.gain)
    assert cost["hedged/likelihood"].tokens_per_point is None  # no certain gain
    assert cost["hedged/oracle"].tokens_per_point is None  # an upper bound
    assert parsed.row("hedged/mbr", "196")[6] == f"{175 / mbr.gain:,.0f}"


def test_requests_of_a_selector_are_shared_by_its_candidate_sets(tmp_path: Path) -> None:
    rows = rows_for(6)
    used = {"job": "select", "stage": "select:mbr", "model": "judge", "requests": 30, "cached_tokens": 0}
    for row in rows:
        row["usage"].append(used | {"prompt_tokens": 300, "completion_tokens": 30})
    cost = {c.system: c for c in collect(write_run(tmp_path, rows), config()).results.system_costs}
    assert (cost["hot/mbr"].calls, cost["hot/mbr"].selecting) == (10, 110)  # three sets in Spanish and Japanese
    assert cost["hedged/mbr"].calls == pytest.approx((4 * 30 + 2 * 10) / 6)
    assert cost["hedged/hedged_mbr"].calls == 0


def test_plots_show_the_stored_numbers(report: Report) -> None:
    html = render_html(report)
    words = re.findall(r"<desc[^>]*>([^<]*)</desc>", html)
    row = next(h for h in report.results.hope_risk if (h.plan, h.language, h.metric) == ("hot", "es", "chrf"))
    assert any(f"{100 * (row.hope_absolute or 0):+.1f}" in w and "Spanish" in w for w in words)
    assert html.count("<polygon") == 12
    (cost,) = (w for w in words if "196 tokens" in w)
    assert "hedged/mbr" in cost and "hot/mbr" not in cost  # measured on other prompts


def test_remarkable_prompts_are_labelled(tmp_path: Path) -> None:
    rows = rows_for(8)
    worst, broken = rows[40], rows[44]
    for score in worst["scores"]:
        if (score["scorer"], score["plan"]) == ("metric:chrf", "hedged"):
            score["values"] = [0.0, 0.9, 0.0, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9]
    broken["errors"] = [{"job": "select", "stage": "select:mbr", "kind": "ValueError", "message": "no"}]
    report = collect(write_run(tmp_path, rows), config())
    why = {s.row.row_id: s.why for s in report.prompts}
    assert [i for i, reason in why.items() if not reason] == [0, 1, 2, 3, 4, 5]
    assert why[40] and why[44] and why[40] != why[44]
    parsed = Page(render_html(report))
    assert why[44] in links_to_prompts(parsed, report)
    assert f"[{why[44]}]" in render_markdown(report)
    none = collect(RunFolder(str(tmp_path)), config(report={"samples": 0}))
    assert not none.prompts


def links_to_prompts(parsed: Page, report: Report) -> list[str]:
    """Reasons of the prompts that "where it failed" links to."""
    targets = [str(a["href"]) for tag, a in parsed.tags if tag == "a" and str(a.get("href")).startswith("#prompt-")]
    assert set(targets) <= {f"#{i}" for i in parsed.ids}
    return [report.prompts[int(t.removeprefix("#prompt-")) - 1].why for t in targets]


def test_texts_carry_their_language(parsed: Page) -> None:
    japanese = [a["lang"] for text, a in parsed.texts if text.startswith("ジャネット") and "卵" in text]
    assert "ja" in japanese
    reference = [
        a["lang"]
        for text, a in parsed.texts
        if text == "Janet's ducks lay 0 eggs per day. She eats three for breakfast."
    ]
    assert set(reference) == {"en"}
    assert {a.get("data-language") for tag, a in parsed.tags if tag == "details"} >= set(SOURCES)


def test_without_answers_from_outside_the_last_table_is_selections(tmp_path: Path) -> None:
    run = write_run(tmp_path, rows_for(6), table="selections")
    with pytest.raises(UnfinishedTableError):
        collect(run, config())  # answers are to be brought in: `judge` has not run
    report = collect(run, config(answers={}))
    assert report.tasks and report.n_games == 0
    Page(render_html(report))


def test_tables_are_linked_where_they_lie(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_for(6))
    settings = config(out=run.name)
    assert 'href="../' not in Path(build_report(run, settings)).read_text(encoding="utf-8")
    winrate.run(settings)
    path = Path(build_report(run, settings))
    links = re.findall(r'href="(\.\./[^"]*)"', path.read_text(encoding="utf-8"))
    assert {"../scores.csv", "../scores.parquet", "../hope_risk.csv", "../curves.csv"} <= set(links)
    assert all((path.parent / link).is_file() for link in links)


def test_two_tasks_are_two_results(tmp_path: Path) -> None:
    rows = rows_for(6)
    for row in rows[:12]:
        row["task"] = "math"
        row["scores"] = [
            s | {"scorer": "metric:accuracy"} if s["scorer"] == "metric:chrf" else s
            for s in row["scores"]
            if s["scorer"] in ("metric:chrf", "metric:language")
        ]
    report = collect(write_run(tmp_path, rows), config())
    assert [(t.task, t.main) for t in report.tasks] == [("translation", "chrf"), ("math", "accuracy")]
    parsed = Page(render_html(report))
    assert len(parsed.ids) == len(set(parsed.ids))


def test_with_games_the_scores_come_second_and_say_their_own(tmp_path: Path) -> None:
    rows = rows_for(10)
    for row in rows:
        shared = {"system": "hedged/likelihood", "opponent": "hedged/sample", "judge": "big", "template": "pairwise@1"}
        row["games"] = [
            shared | {"order": order, "score": 1.0, "mass": 0.9, "verdict": "win", "reason": None}
            for order in ("ab", "ba")
        ]
    report = collect(write_run(tmp_path, rows), config())
    made = headline(report)
    assert (made.kind, made.system, made.against) == ("won", "hedged/likelihood", "hedged/sample")
    parsed = Page(render_html(report))
    scores = score_headline(report, report.tasks[0])
    assert scores.kind == "won" and parsed.plain.index(made.title) < parsed.plain.index(scores.title)
    assert {c.unit for c in report.results.system_costs if c.unit} == {"win-rate"}


def test_a_message_without_content_is_shown_all_the_same(tmp_path: Path) -> None:
    rows = rows_for(6)
    call = {"role": "assistant", "content": None, "name": None, "tool_calls": '[{"name": "look_up"}]'}
    rows[0]["messages"].append(call)
    parsed = Page(render_html(collect(write_run(tmp_path, rows), config())))
    assert "look_up" in parsed.plain


def test_names_from_the_data_cannot_break_out(tmp_path: Path) -> None:
    rows = rows_for(6)
    for row in rows:
        row["task"] = ATTACK
        row["language"] = '"><img src=x onerror=alert(1)>' if row["language"] == "de" else row["language"]
        for score in row["scores"]:
            score["scorer"] = score["scorer"].replace("chrf", "<script>chrf\x00")
        row["answers"] = [{"system": "copy_source", "text": ATTACK}]
    report = collect(write_run(tmp_path, rows), config())
    html, text = render_html(report), render_markdown(report)
    parsed = Page(html)
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "b")] and html.count("<script>") == 1
    assert "\x00" not in html and "<script>chrf" in parsed.plain.replace("␀", "")
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.S | re.M)
    assert "<script" not in outside and "<img" not in outside
