"""The headline claims no more than the intervals and the judge's audit allow."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.report.collect import collect
from pipeline.report.headline import Headline, headline
from pipeline.report.model import Report
from pipeline.report.render import render_html, render_markdown
from pipeline.report.sides import side
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM
from tests.report.runs import CONFIG, Page, config_with, game, rows_for, write_run


def headline_of(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[Report, Headline]:
    report = collect(write_run(tmp_path / "run", rows), config_with())
    return report, headline(report)


def audited(rows: list[dict[str, Any]], original: Callable[[int, str], str]) -> list[dict[str, Any]]:
    """Add games of the judge's audit: ``original(row_id, order)`` is the verdict on the undamaged answer."""
    for row in rows:
        for version in ("identical", "truncated"):
            for order in ("ab", "ba"):
                verdict = "tie" if version == "identical" else original(row["row_id"], order)
                names = {"system": "audit:original", "opponent": f"audit:{version}"}
                row["games"].append(game("", order, verdict) | names)
    return rows


def with_verdicts(rows: list[dict[str, Any]], verdict: Callable[[int, str, str], str]) -> list[dict[str, Any]]:
    for row in rows:
        names = ("greedy", "mbr")
        row["games"] = [game(s, o, verdict(row["row_id"], s, o)) for s in names for o in ("ab", "ba")]
    return rows


def test_headline_names_a_winner_only_when_certain(tmp_path: Path) -> None:
    even = ("win", "loss")
    rows = with_verdicts(rows_for(30), lambda i, s, o: "win" if s == "mbr" and (i // 7) % 6 else even[i % 2])
    report, found = headline_of(tmp_path / "a", rows)
    best = report.contests[0].standings[0]
    assert best.system == "hedged/mbr" and best.joint_low is not None and best.joint_low > 0.5
    assert found.kind == "won" and found.title == "mbr beats sample" and "ahead of every other system" in found.text
    rows = with_verdicts(rows_for(3), lambda i, s, o: "win" if (i // 7) % 2 else "loss")
    report, found = headline_of(tmp_path / "b", rows)
    assert found.kind == "open" and found.title == "No system can be told from sample at n = 21 prompts"
    rows = with_verdicts(rows_for(40), lambda i, s, o: "win" if (i // 7) % 9 == 0 else "loss")
    report, found = headline_of(tmp_path / "c", rows)
    assert found.kind == "lost" and found.title == "sample beats all 2 systems"


def test_headline_without_numbers(tmp_path: Path) -> None:
    report, found = headline_of(tmp_path / "a", with_verdicts(rows_for(1), lambda i, s, o: "win"))
    assert found.kind == "open" and "no interval" in found.text  # one cluster
    assert "fewer than 2 independent clusters: no interval" in render_html(report)
    report, found = headline_of(tmp_path / "b", with_verdicts(rows_for(2), lambda i, s, o: "invalid"))
    assert found.kind == "empty" and "No verdict could be used" in render_html(report)
    Page(render_html(report))
    rows = [row | {"games": [], "selections": [], "candidates": []} for row in rows_for(1)]
    report, found = headline_of(tmp_path / "c", rows)
    assert found.kind == "empty" and not report.contests
    parsed = Page(render_html(report))
    assert "No games were judged" in parsed.plain and not re.search(r"\b(None|nan)\b", parsed.plain)


def test_few_clusters_claim_nothing_however_short_the_interval() -> None:
    assert side(0.60, 0.61, n_clusters=CLUSTERS_TO_CLAIM - 1) == "even"
    assert side(0.60, 0.61, n_clusters=CLUSTERS_TO_CLAIM) == "above"
    assert side(0.39, 0.41, n_clusters=CLUSTERS_TO_CLAIM) == "below"
    assert side(None, None, n_clusters=100) == "none"


def test_a_language_of_few_prompts_claims_nothing(tmp_path: Path) -> None:
    rows = sure_win(10)
    for row in rows:
        if row["language"] == "fr" and row["row_id"] > 7 * 5:
            row["language"] = "it"
    report, _ = headline_of(tmp_path, with_verdicts(rows, lambda i, s, o: "win" if i % 9 or o == "ab" else "tie"))
    sides = {r.language: r.side for r in report.contests[0].standings[0].languages}
    assert sides["de"] == "above" and sides["fr"] == sides["it"] == "even"


def sure_win(questions: int) -> list[dict[str, Any]]:
    return with_verdicts(rows_for(questions), lambda i, s, o: "win" if s == "mbr" and (i // 7) % 6 else "loss")


def test_no_winner_is_named_by_a_judge_who_guesses(tmp_path: Path) -> None:
    rows = audited(sure_win(30), lambda i, o: "win" if o == "ab" else "loss")  # always the first
    report, found = headline_of(tmp_path / "a", rows)
    assert report.contests[0].standings[0].side == "above"  # without the audit it would win
    assert found.kind == "judge" and found.title == "No winner: big-judge cannot be told from a judge who guesses"
    html = render_html(report)
    parsed = Page(html)
    assert "The judge failed its audit" in html and 'class="headline judge"' in html
    assert parsed.row("cut in half") and "cannot be told from chance" in parsed.plain
    assert "no difference is claimed" in html and not [c for c in report.costs if c.tokens_per_point is not None]
    assert "mbr beats sample" not in html and "ahead in" not in html
    text = render_markdown(report)
    assert "No winner" in text and "| cut in half | 210 | 0 | 50.0% |" in text

    rows = audited(sure_win(30), lambda i, o: "win" if (i // 7) % 10 else "loss")
    report, found = headline_of(tmp_path / "b", rows)
    assert found.title == "mbr beats sample" and "failed its audit" not in render_html(report)
    assert "prefers the undamaged answer" in Page(render_html(report)).plain
    rows = audited(sure_win(30), lambda i, o: "loss" if (i // 7) % 10 else "win")
    assert headline_of(tmp_path / "c", rows)[1].title == "No winner: big-judge prefers damaged answers"


def test_an_audit_that_is_too_small_is_not_called_failed(tmp_path: Path) -> None:
    report, found = headline_of(tmp_path, audited(sure_win(2), lambda i, o: "win"))
    assert found.title == "No winner: too few audited questions to trust big-judge"
    html = render_html(report)
    assert "Too few questions to audit the judge" in html and "failed its audit" not in html
    assert "it has too few questions to say" in Page(html).plain


def test_games_of_candidates_and_of_the_audit_are_not_between_systems(tmp_path: Path) -> None:
    rows = audited(with_verdicts(rows_for(7), lambda i, s, o: "win"), lambda i, o: "win")
    for row in rows:
        for i in range(3):
            verdict = ("loss", "win", "win")[i]
            row["games"] += [game("", o, verdict) | {"system": f"hedged#{i}"} for o in ("ab", "ba")]
        row["games"][-1] |= {"score": None, "verdict": "invalid"}
    report, _ = headline_of(tmp_path, rows)
    n = len(rows)
    assert (report.n_games, report.n_candidate_games, report.n_audit_games) == (4 * n, 6 * n, 4 * n)
    assert report.n_invalid_games == 0
    assert [s.system for s in report.contests[0].standings] == ["hedged/greedy", "hedged/mbr"]
    shown = report.sample[0]
    assert {m.system for m in shown.matches} == {"hedged/greedy", "hedged/mbr", "audit:original"}
    wins = [dict(v.scores).get("win", "no games") for v in shown.candidates]
    assert wins == [0.0, 1.0, None]
    assert [f.count for f in report.failures if f.where == "judge (candidate)"] == [n]


def test_an_oracle_never_wins_games(tmp_path: Path) -> None:
    rows = with_verdicts(rows_for(30), lambda i, s, o: "win" if s == "greedy" or (i // 7) % 6 else "loss")
    selectors = {**CONFIG["selectors"], "greedy": {"kind": "oracle"}}
    report = collect(write_run(tmp_path, rows), config_with(selectors=selectors))
    assert report.contests[0].standings[0].system == "hedged/greedy"
    found = headline(report)
    assert found.title == "mbr beats sample" and "greedy (100.0%) chose by the reference: an upper bound" in found.text
    assert next(c for c in report.costs if c.system == "hedged/greedy").tokens_per_point is None


def test_systems_that_were_not_compared_are_not_said_to_be_even(tmp_path: Path) -> None:
    rows = sure_win(30)
    for row in rows:  # with two templates a paired comparison does not know which one is meant
        row["games"] += [g | {"template": "other@1"} for g in row["games"]]
    report, found = headline_of(tmp_path, rows)
    assert report.contests[0].behind is None
    assert found.title == "mbr beats sample" and "It was not compared with the other systems" in found.text
