"""The report's content: numbers equal the statistics', untrusted text stays text, nothing is loaded from outside.

What the page says in words is in golden/games.md and golden/plots.md.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipeline.core.errors import UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import escape_markdown, fence
from pipeline.jobs import report as report_command
from pipeline.report import wording
from pipeline.report.collect import collect
from pipeline.report.model import Report
from pipeline.report.render import build_report, render_html
from tests.report.golden import above_agreement, assert_golden, numbers, shortened
from tests.report.runs import (
    CONFIG,
    METHODS,
    QUESTIONS,
    Page,
    config_with,
    game,
    pct,
    rows_for,
    special_rows,
    write_run,
)
from tests.stats.tables import run_games, winrates


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    rows = rows_for(4)
    return write_run(tmp_path_factory.mktemp("page") / "run", rows + special_rows(len(rows)))


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Report:
    return collect(run, config_with())


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        report_command.run(config_with(out=run.name))
    assert run.path("report", "index.html") in said.getvalue()
    return Path(run.path("report", "index.html")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


@pytest.fixture(scope="module")
def markdown(run: RunFolder, page: str) -> str:
    return run.read_text("report", "report.md") or ""


def test_its_words_are_the_reviewed_ones_and_page_and_markdown_agree(page: str, parsed: Page, markdown: str) -> None:
    assert_golden("games.md", shortened(markdown))
    assert_golden("games_plots.md", "\n".join(re.findall(r"<desc[^>]*>([^<]*)</desc>", page)) + "\n")
    assert numbers(above_agreement(markdown)) <= numbers(parsed.spaced)
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.S | re.M)
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    assert rows and not [line for line in rows if not line.endswith("|")]


def test_win_rates_equal_the_statistics(run: RunFolder, parsed: Page) -> None:
    games = run_games(run)
    assert games is not None
    table = winrates(games, draws=200)
    pooled = sorted((r for r in table if r["language"] == "all"), key=lambda r: -r["win_rate"])
    cleaned = [[" ".join(cell.split()) for cell in row] for row in parsed.rows]
    shown = [c for c in cleaned if len(c) == 12 and c[1].endswith("%")]
    assert [c[0].strip("†") for c in shown] == [r["system"].removeprefix("hedged/") for r in pooled]
    assert len(pooled) == 4
    for row, cells in zip(pooled, shown, strict=True):
        spans = [wording.interval(row[f"{kind}_low"], row[f"{kind}_high"]) for kind in ("ci", "joint")]
        expected = [pct(row["win_rate"]), *spans]
        assert cells[1:4] == expected
        assert cells[6:8] == [str(row["n_prompts"]), str(row["n_invalid"])]
        assert cells[9:11] == [pct(row["flip_rate"]), pct(row["tie_rate"])]
        assert row["signature"] in parsed.plain and row["joint_signature"] in parsed.plain
    german = next(r for r in table if (r["system"], r["language"]) == ("hedged/mbr", "de"))
    cells = next(r for r in parsed.rows[parsed.rows.index(["mbr"]) :] if r[0] == "German")
    assert cells[1] == pct(german["win_rate"]) and cells[3] == str(german["n_prompts"])


def test_numbers_that_do_not_exist_are_dashes(page: str, parsed: Page) -> None:
    arabic = parsed.row("Arabic")
    assert arabic[1].startswith("–") and arabic[3:5] == ["0", "1"]
    assert not re.search(r"\b(None|nan|NaN|inf)\b", parsed.plain)
    assert not re.search(r'="(None|nan|NaN)', page)


def test_selectors_and_failures(report: Report) -> None:
    found = {s.method: s for s in report.selectors}
    n = 30
    assert set(found) == set(METHODS) and report.n_candidates == 90 and report.n_truncated == 29
    assert (found["best_of_n"].fallbacks, found["judge"].n, found["judge"].missing) == (29, 29, 1)
    texts = [r["selections"][2]["text"] for r in rows_for(4) + special_rows(28)]
    assert found["mbr"].share(found["mbr"].chars) == sum(map(len, texts)) / n
    assert report.agreement["hedged/mbr", "hedged/judge"] == 1.0
    assert report.agreement["hedged/greedy", "hedged/best_of_n"] == 1.0
    assert report.agreement["hedged/sample", "hedged/mbr"] == pytest.approx(1 / n)  # only in the malicious row
    failed = {f.where: f.count for f in report.results.failures if f.where != "select:judge"}
    assert failed == {"select:best_of_n": 29, "judge": 12, "generate:hedged": 1}


def test_sample_marks_the_choice(page: str, parsed: Page) -> None:
    assert len([1 for tag, a in parsed.tags if tag == "details" and a.get("class") == "prompt"]) == 30
    card = re.search(r'<li class="candidate chosen">(?:(?!</li>).)*\(c, 0\)(?:(?!</li>).)*</li>', page, re.S)
    assert card and re.findall(r"<code>(\w+)</code>", card[0]) == ["mbr", "judge"] and "0.75" in card[0]
    plain = re.search(r'<li class="candidate">(?:(?!</li>).)*\(b, 0\)', page, re.S)
    assert not plain  # the opponent `sample` chose it
    languages = [a.get("data-language") for tag, a in parsed.tags if tag == "details" and "data-language" in a]
    assert languages[:8] == sorted([*QUESTIONS, "ar"])
    assert '<span class="game win">win</span>' in page and '<span class="game invalid">invalid</span>' in page


def test_untrusted_text_cannot_break_out(page: str, parsed: Page, markdown: str) -> None:
    assert [a for tag, a in parsed.tags if tag == "script"] == [{}]
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "iframe", "link", "b", "object", "form")]
    assert not [a for _, a in parsed.tags for name in a if name.startswith("on")]
    assert page.count("</main>") == 1 and "\x00" not in page and "\u202e" not in markdown
    shown = [text for text, _ in parsed.texts if "evil" in text]
    assert shown and all("<script>alert('x')</script>" in text and "␀" in text for text in shown)
    for _, attributes in parsed.texts:
        assert attributes["dir"] == "auto" and attributes["lang"]
    for part, language in (("الريحان", "ar"), ("直射日光", "ja")):
        assert {a["lang"] for text, a in parsed.texts if part in text} == {language}


def test_page_is_self_contained_and_valid(page: str, parsed: Page) -> None:
    assert len(parsed.ids) == len(set(parsed.ids))
    for _, a in parsed.tags:
        assert not {"src", "srcset", "data", "action"} & set(a)
        if "href" in a:
            assert str(a["href"])[0] == "#" and str(a["href"])[1:] in parsed.ids
        for name in ("aria-labelledby", "for"):
            assert all(i in parsed.ids for i in str(a.get(name) or "").split())
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "http" not in re.sub("http-equiv", "", page)
    tags = [t for t, _ in parsed.tags]
    assert tags.count("main") == tags.count("h1") == 1 and {"header", "nav", "footer"} <= set(tags)
    assert all(b - a <= 1 for a, b in zip(parsed.headings, parsed.headings[1:], strict=False))
    assert tags.count("caption") == tags.count("table")
    for tag, a in parsed.tags:
        assert tag != "th" or a.get("scope")
        assert tag != "svg" or (a.get("role") == "img" and a.get("aria-labelledby"))
    assert tags.count("svg") == tags.count("desc") == 7  # pooled, a panel a system, gain against cost, load


def test_a_judge_that_selects_or_writes_is_said_loudly(run: RunFolder, page: str, report: Report) -> None:
    assert report.judge_selects == ["judge"] and page.count('class="banner loud"') == 1
    shared = {**CONFIG["engines"], "judge": {"kind": "dummy", "model": "small-writer"}}
    quiet = {**CONFIG["selectors"], "judge": {"engine": "reward"}}
    other = collect(run, config_with(engines=shared, selectors=quiet, report={"note": "Plumbing & nothing else"}))
    html = render_html(other)
    assert not other.judge_selects and html.count('class="banner loud"') == 1  # it wrote the answers
    assert html.index('class="headline') < html.index("Plumbing &amp; nothing else") < html.index("<figure")
    same_model = {**CONFIG["engines"], "reward": {"kind": "dummy", "model": "big-judge"}}
    assert collect(run, config_with(engines=same_model)).judge_selects == ["best_of_n", "judge"]


def test_systems_of_several_plans_keep_their_full_name(tmp_path: Path) -> None:
    rows = rows_for(2)
    for row in rows:
        fused = row["selections"][0] | {"plan": "hot", "method": "mbr", "index": -1, "text": "fused <i>"}
        row["selections"].append(fused)
    report = collect(write_run(tmp_path / "run", rows), config_with(plans={"hot": {"kind": "single", "n": 4}}))
    parsed = Page(render_html(report))
    assert parsed.row("hedged/mbr") and parsed.row("hot/mbr", "14")[3] == "14"
    assert any(text == "fused <i>" for text, _ in parsed.texts)


def test_contests_of_other_judges_and_opponents_follow(tmp_path: Path) -> None:
    rows = rows_for(3)
    for row in rows:
        row["games"] += [g | {"judge": "other-judge"} for g in row["games"] if g["system"] == "hedged/mbr"]
        row["games"] += [game("mbr", order, "win", opponent="rival") for order in ("ab", "ba")]
    report = collect(write_run(tmp_path / "run", rows), config_with())
    found = [(c.opponent, c.judge, len(c.standings)) for c in report.contests]
    assert found[0] == ("hedged/sample", "big-judge", 4)
    assert set(found[1:]) == {("hedged/sample", "other-judge", 1), ("rival", "big-judge", 1)}
    parsed = Page(render_html(report))
    assert len(parsed.ids) == len(set(parsed.ids)) and "other-judge" in parsed.plain
    assert all(b - a <= 1 for a, b in zip(parsed.headings, parsed.headings[1:], strict=False))


def test_markdown_escapes() -> None:
    assert fence("a\n```\nb").splitlines()[0] == "````text"
    assert escape_markdown("a|b\n<c> *d* \u202e") == r"a\|b &lt;c&gt; \*d\* ⟦U\+202E⟧"


def test_a_plan_in_words_names_what_was_sampled() -> None:
    config = config_with(plans={"mix": {"kind": "mixed", "n": 4}, "one": {"kind": "greedy"}})
    said = [wording.plan_sentence(plan) for plan in (config.sampling, *config.plans.values())]
    assert [re.findall(r"[\d.]*\d", text) for text in said] == [["2", "0.7", "0.1"], ["4", "0.3", "0.7", "1"], []]
    assert "greedy" in said[0] and "greedy" not in said[1] and "greedy" in said[2]


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedTableError):
        build_report(RunFolder(str(tmp_path)), config_with())
