"""The headline claims no more than the intervals and the judge's audit allow; its sentences: golden/headlines.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.report.collect import collect
from pipeline.report.headline import Headline, by_language, headline
from pipeline.report.model import Report
from pipeline.report.render import render_html, render_markdown
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, side
from tests.report import translation
from tests.report.golden import assert_golden
from tests.report.runs import CONFIG, Page, config_with, game, rows_for, write_run

Rows = list[dict[str, Any]]
Case = tuple[Rows, Config]
MBR, SAMPLE = "hedged/mbr", "hedged/sample"
CIRCULAR = ("hedged/mbr", "hedged/hedged_mbr")  # they make the same choices


def audited(rows: Rows, original: Callable[[int, str], str]) -> Rows:
    """Add games of the judge's audit: ``original(row_id, order)`` is the verdict on the undamaged answer."""
    for row in rows:
        for version in ("identical", "truncated"):
            for order in ("ab", "ba"):
                verdict = "tie" if version == "identical" else original(row["row_id"], order)
                names = {"system": "audit:original", "opponent": f"audit:{version}"}
                row["games"].append(game("", order, verdict) | names)
    return rows


def with_verdicts(questions: int, verdict: Callable[[int, str, str], str]) -> Rows:
    """Games of greedy and mbr: ``verdict(row_id, system, order)``."""
    rows = rows_for(questions)
    for row in rows:
        names = ("greedy", "mbr")
        row["games"] = [game(s, o, verdict(row["row_id"], s, o)) for s in names for o in ("ab", "ba")]
    return rows


def sure_win(questions: int) -> Rows:
    return with_verdicts(questions, lambda i, s, o: "win" if s == "mbr" and (i // 7) % 6 else "loss")


def two_templates() -> Rows:
    rows = sure_win(30)
    for row in rows:  # each is a contest of its own
        row["games"] += [g | {"template": "other@1"} for g in row["games"]]
    return rows


def giant_cluster() -> Case:
    rows = with_verdicts(30, lambda i, s, o: "win" if i % 10 else "loss")
    return [row | {"cluster_id": "giant" if row["row_id"] < 150 else row["cluster_id"]} for row in rows], config_with()


def oracle_on_top() -> Case:
    rows = with_verdicts(30, lambda i, s, o: "win" if s == "greedy" or (i // 7) % 6 else "loss")
    return rows, config_with(selectors={**CONFIG["selectors"], "greedy": {"kind": "oracle"}})


def scores(questions: int, gain: float = 0.08, **values: Callable[[list[float]], list[float]]) -> Case:
    """Translations; ``values`` change a set's chrF."""
    rows = translation.rows_for(questions, gain)
    for row in rows:
        for score in row["scores"]:
            if score["scorer"] == "metric:chrf" and score["plan"] in values:
                score["values"] = values[score["plan"]](score["values"])
    return rows, translation.config()


def games(rows: Rows) -> Case:
    return rows, config_with()


CASES: dict[str, Callable[[], Case]] = {
    "ahead of all": lambda: games(
        with_verdicts(30, lambda i, s, o: "win" if s == "mbr" and (i // 7) % 6 else ("win", "loss")[i % 2])
    ),
    "few questions": lambda: games(with_verdicts(3, lambda i, s, o: "win" if (i // 7) % 2 else "loss")),
    "all lose": lambda: games(with_verdicts(40, lambda i, s, o: "win" if (i // 7) % 9 == 0 else "loss")),
    "one question": lambda: games(with_verdicts(1, lambda i, s, o: "win")),
    "no verdict": lambda: games(with_verdicts(2, lambda i, s, o: "invalid")),
    "no games": lambda: games([r | {"games": [], "selections": [], "candidates": []} for r in rows_for(1)]),
    "a judge who guesses": lambda: games(audited(sure_win(30), lambda i, o: "win" if o == "ab" else "loss")),
    "a judge who is able": lambda: games(audited(sure_win(30), lambda i, o: "win" if (i // 7) % 10 else "loss")),
    "a judge who is misled": lambda: games(audited(sure_win(30), lambda i, o: "loss" if (i // 7) % 10 else "win")),
    "a small audit": lambda: games(audited(sure_win(2), lambda i, o: "win")),
    "lost games that cannot be read": lambda: games(
        with_verdicts(40, lambda i, s, o: "win" if i % 2 else "invalid" if i % 10 else "loss")
    ),
    "few that cannot be read": lambda: games(
        with_verdicts(40, lambda i, s, o: "win" if i % 3 else "invalid" if i % 12 == 0 else "loss")
    ),
    "three that can be read": lambda: games(
        with_verdicts(60, lambda i, s, o: "win" if i in (0, 50, 100) else "invalid")
    ),
    "a giant cluster": giant_cluster,
    "an oracle on top": oracle_on_top,
    "two templates": lambda: games(two_templates()),
    "scores: a gain": lambda: scores(10),
    "scores: no gain": lambda: scores(10, gain=0.0),
    "scores: few questions": lambda: scores(5),
    "scores: all lose": lambda: scores(
        10, hedged=lambda values: [v - 0.2 if i in (0, 2, 4) else v for i, v in enumerate(values)]
    ),
    "scores: an answer from outside on top": lambda: scores(10, **{"answer:copy_source": lambda values: [0.95]}),
}
Found = Callable[[str], tuple[Report, Headline]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Report and headline of a case, made once."""

    @cache
    def make(name: str) -> tuple[Report, Headline]:
        rows, config = CASES[name]()
        report = collect(write_run(tmp_path_factory.mktemp("run"), rows), config)
        return report, headline(report)

    return make


@pytest.mark.parametrize(
    ("name", "kind", "systems", "close"),
    [
        ("ahead of all", "won", [MBR], ()),
        ("few questions", "open", ["hedged/greedy", MBR], None),
        ("all lose", "lost", ["hedged/greedy", MBR], None),
        ("one question", "open", ["hedged/greedy", MBR], None),
        ("no verdict", "empty", [None], None),
        ("no games", "empty", [None], None),
        ("a judge who guesses", "judge", [None], None),
        ("a judge who is able", "won", [MBR], ()),
        ("a judge who is misled", "judge", [None], None),
        ("a small audit", "judge", [None], None),
        ("lost games that cannot be read", "open", ["hedged/greedy", MBR], None),
        ("few that cannot be read", "won", ["hedged/greedy"], (MBR,)),
        ("three that can be read", "open", ["hedged/greedy", MBR], None),
        ("a giant cluster", "open", ["hedged/greedy", MBR], None),
        ("an oracle on top", "won", [MBR], ()),
        ("two templates", "won", [MBR], ()),
        ("scores: a gain", "won", CIRCULAR, CIRCULAR),
        ("scores: no gain", "open", None, None),
        ("scores: few questions", "open", None, None),
        ("scores: all lose", "lost", None, None),
        ("scores: an answer from outside on top", "won", CIRCULAR, CIRCULAR),
    ],
)
def test_what_is_claimed_about_whom(
    found: Found, name: str, kind: str, systems: list[str] | None, close: tuple[str, ...] | None
) -> None:
    made = found(name)[1]
    assert made.kind == kind
    assert systems is None or made.system in systems
    assert made.against == (None if made.system is None else SAMPLE)
    assert made.close == (None if close is None else tuple(s for s in close if s != made.system))


def test_its_sentences(found: Found) -> None:
    parts = []
    for name in CASES:
        report, made = found(name)
        parts += [f"## {name}\n\n**{made.title}**\n\n{made.text}\n\n{by_language(report)}".rstrip() + "\n"]
    assert_golden("headlines.md", "\n".join(parts))


def test_the_page_of_a_judge_who_guesses(found: Found) -> None:
    report, _ = found("a judge who guesses")
    assert report.contests[0].standings[0].side == "above"  # without the audit it would win
    assert not by_language(report) and not [c for c in report.results.system_costs if c.tokens_per_point is not None]
    html = render_html(report)
    assert 'class="headline judge"' in html and "beats" not in html and "ahead in" not in html
    assert_golden("no_winner.md", render_markdown(report).partition("## Prompts to read")[0])
    assert not [a.grade for a in found("a small audit")[0].results.audit if a.grade != "unknown"]


@pytest.mark.parametrize("name", ["one question", "no verdict", "no games", "a small audit", "a judge who is able"])
def test_pages_are_whole_without_numbers(found: Found, name: str) -> None:
    words = Page(render_html(found(name)[0])).plain.split()
    assert not {"None", "nan", "None,", "nan%"} & set(words)


def test_certain_and_uncertain_sides(found: Found) -> None:
    best = found("ahead of all")[0].contests[0].standings[0]
    assert best.system == MBR and best.pooled.joint_low is not None and best.pooled.joint_low > 0.5
    assert side(0.60, 0.61, clusters=CLUSTERS_TO_CLAIM - 1) == "even"  # however short the interval
    assert side(0.60, 0.61, clusters=CLUSTERS_TO_CLAIM) == "above"
    assert side(0.39, 0.41, clusters=CLUSTERS_TO_CLAIM) == "below"
    assert side(None, None, clusters=100) == "none"


def test_a_side_needs_the_unreadable_verdicts_on_it_too() -> None:
    assert side(0.60, 0.61, 100, unreadable=(0.51, 0.9)) == "above"
    assert side(0.60, 0.61, 100, unreadable=(0.49, 0.9)) == "even"
    assert side(0.39, 0.41, 100, unreadable=(0.1, 0.49)) == "below"
    assert side(0.39, 0.41, 100, unreadable=(0.1, 0.51)) == "even"


def test_clusters_are_those_with_a_score_and_unreadable_verdicts_count(found: Found) -> None:
    """80% of the lost games unreadable, three readable prompts, one cluster of nearly all prompts."""
    hidden = found("lost games that cannot be read")[0]
    best = hidden.contests[0].standings[0]
    assert best.pooled.win_rate is not None and best.pooled.win_rate > 0.8
    assert best.pooled.ci_low is not None and best.pooled.ci_low > 0.5 and best.side == "even" and best.hidden
    assert not [c for c in hidden.results.system_costs if c.tokens_per_point is not None]
    three = found("three that can be read")[0].contests[0].standings[0].pooled
    assert (three.n_prompts, three.n_clusters, three.effective_clusters, three.side) == (3, 3, 3, "even")
    giant = found("a giant cluster")[0].contests[0].standings[0].pooled
    assert giant.n_clusters == 10 and giant.effective_clusters < CLUSTERS_TO_CLAIM
    assert found("few that cannot be read")[0].contests[0].standings[0].pooled.n_invalid


def test_a_language_of_few_prompts_claims_nothing(tmp_path: Path) -> None:
    rows = with_verdicts(10, lambda i, s, o: "win" if i % 9 or o == "ab" else "tie")
    for row in rows:
        if row["language"] == "fr" and row["row_id"] > 7 * 5:
            row["language"] = "it"
    report = collect(write_run(tmp_path, rows), config_with())
    sides = {r.language: r.side for r in report.contests[0].standings[0].languages}
    assert sides["de"] == "above" and sides["fr"] == sides["it"] == "even"


def test_games_of_candidates_and_of_the_audit_are_not_between_systems(tmp_path: Path) -> None:
    rows = audited(with_verdicts(7, lambda i, s, o: "win"), lambda i, o: "win")
    for row in rows:
        for i in range(3):
            verdict = ("loss", "win", "win")[i]
            row["games"] += [game("", o, verdict) | {"system": f"hedged#{i}"} for o in ("ab", "ba")]
        row["games"][-1] |= {"score": None, "verdict": "invalid"}
    report = collect(write_run(tmp_path, rows), config_with())
    n = len(rows)
    assert (report.n_games, report.n_candidate_games, report.n_audit_games) == (4 * n, 6 * n, 4 * n)
    assert report.n_invalid_games == 0
    assert [s.system for s in report.contests[0].standings] == ["hedged/greedy", "hedged/mbr"]
    shown = report.prompts[0]
    assert {m.system for m in shown.matches} == {"hedged/greedy", "hedged/mbr", "audit:original"}
    wins = [dict(v.scores).get("win", "no games") for v in shown.candidates]
    assert wins == [0.0, 1.0, None]
    assert [f.count for f in report.results.failures if f.where == "judge (candidate)"] == [n]


def test_an_oracle_gains_nothing(found: Found) -> None:
    report, _ = found("an oracle on top")
    assert report.contests[0].standings[0].system == "hedged/greedy"  # it wins every game
    assert next(c for c in report.results.system_costs if c.system == "hedged/greedy").tokens_per_point is None


def test_outside_games_take_the_place_of_the_runs(tmp_path: Path) -> None:
    lines = [f"{p},en,theirs,ours,{o},{s}" for p in range(60) for o, s in (("ab", 1), ("ba", 1 if p % 6 else 0))]
    (tmp_path / "games.csv").write_text("prompt_id,language,system,opponent,order,score\n" + "\n".join(lines))
    config = config_with(winrate={"games": str(tmp_path / "games.csv"), "draws": 200})
    report = collect(write_run(tmp_path / "run", rows_for(1)), config)
    made = headline(report)
    assert (made.kind, made.system, made.against) == ("won", "theirs", "ours")
    assert report.contests[0].standings[0].pooled.win_rate == pytest.approx(110 / 120)
