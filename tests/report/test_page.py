"""The report's content: numbers equal the statistics', untrusted text stays text, nothing is loaded from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import report as report_command
from pipeline.errors import UnfinishedTableError
from pipeline.report import wording
from pipeline.report.collect import collect
from pipeline.report.escaping import escape_markdown, fence
from pipeline.report.headline import headline
from pipeline.report.render import build_report, render_html
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.run_games import load_run_games
from pipeline.stats.winrate import simultaneous_winrates, winrates
from pipeline.storage import RunFolder
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    rows = rows_for(4)
    return write_run(tmp_path_factory.mktemp("page") / "run", rows + special_rows(len(rows)))


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return Path(build_report(run, config_with())).read_text(encoding="utf-8")


def test_win_rates_equal_the_statistics(run: RunFolder, page: str) -> None:
    games = load_run_games(run)
    parsed = Page(page)
    together = {r["system"]: r for r in simultaneous_winrates(games, draws=200).to_pylist()}
    rates = {(r["system"], r["language"]): r for r in judge_rates(games).to_pylist()}
    table = winrates(games, draws=200).to_pylist()
    macro = {r["system"]: r for r in table if r["language"] == "macro"}
    pooled = [r for r in table if r["language"] == "all"]
    assert len(pooled) == 4
    for row in pooled:
        name = row["system"].removeprefix("hedged/")
        cells = parsed.row(name + ("†" if name == "judge" else ""))
        joint = together[row["system"]]
        assert cells[1] == pct(row["win_rate"])
        assert cells[2] == f"{100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f}%"
        assert cells[3] == f"{100 * joint['ci_low']:.1f}–{100 * joint['ci_high']:.1f}%"
        assert macro[row["system"]]["win_rate"] is None and cells[5].startswith("–")
        assert cells[6:8] == [str(row["n_prompts"]), str(row["n_invalid"])]
        assert cells[9] == pct(rates[row["system"], "all"]["flip_rate"])
        assert cells[10] == pct(rates[row["system"], "all"]["tie_rate"])
        assert row["signature"] in parsed.plain and joint["signature"] in parsed.plain
    ordered = sorted(pooled, key=lambda r: -r["win_rate"])
    shown = [c[0].strip("†") for c in parsed.rows if len(c) == 12 and c[1].endswith("%")]
    assert shown == [r["system"].removeprefix("hedged/") for r in ordered]
    german = next(r for r in table if (r["system"], r["language"]) == ("hedged/mbr", "de"))
    start = parsed.rows.index(["mbr"])
    cells = next(r for r in parsed.rows[start:] if r[0] == "German")
    assert cells[1] == pct(german["win_rate"]) and cells[3] == str(german["n_prompts"])


def test_numbers_that_do_not_exist_are_dashes_with_a_reason(page: str) -> None:
    parsed = Page(page)
    arabic = parsed.row("Arabic")
    assert arabic[1] == "– (no prompt with a valid verdict)" and arabic[3:5] == ["0", "1"]
    assert "– means: a language has no prompt with a valid verdict" in parsed.plain
    assert not re.search(r"\b(None|nan|NaN|inf)\b", parsed.plain)
    assert not re.search(r'="(None|nan|NaN)', page)


def test_selectors(run: RunFolder, page: str) -> None:
    parsed = Page(page)
    start = next(i for i, r in enumerate(parsed.rows) if r[:1] == ["Selector"])
    rows = {r[0].split()[0]: [" ".join(c.split()) for c in r] for r in parsed.rows[start + 1 : start + 6]}
    assert set(rows) == set(METHODS)
    n = 30
    assert rows["greedy"][1:3] == [str(n), "100.0%"]
    assert rows["sample"][2] == pct(1 / n)  # only in the malicious row
    assert rows["best_of_n"][5] == "29"  # fallbacks
    assert rows["judge"][1] == "29" and rows["judge"][6] == "1"
    assert rows["mbr"][4] == pct(29 / n)  # cut at the limit
    report = collect(run, config_with())
    texts = [r["selections"][2]["text"] for r in rows_for(4) + special_rows(28)]
    assert report.selectors[[s.method for s in report.selectors].index("mbr")].mean_chars == sum(map(len, texts)) / n
    assert report.agreement["hedged/mbr", "hedged/judge"] == 1.0
    assert report.agreement["hedged/greedy", "hedged/best_of_n"] == 1.0
    assert report.agreement["hedged/sample", "hedged/mbr"] == pytest.approx(1 / n)
    assert report.n_candidates == 90 and report.n_truncated == 29


def test_costs_and_failures(page: str) -> None:
    parsed = Page(page)
    assert parsed.row("select:judge") == ["select:judge", "big-judge", "3.0", "300", "50.0%", "6.0"]
    assert parsed.row("judge", "big-judge")[2] == "8.0"
    assert parsed.row("generate-generator")[-1] == "61.2" or parsed.row("generate-generator")[-1] == "61.3"
    assert parsed.row("judge-judge")[-1] == "12.5"  # not in the manifest: from the table's marker
    assert parsed.row("select:best_of_n", "fell back: no valid score")[2] == "29"
    assert parsed.row("judge", "invalid verdict: unreadable")[2] == str(8 + len([i for i in range(28) if i % 7 == 3]))
    assert parsed.row("select:judge", "ValueError")[2] == "1"
    assert parsed.row("generate:hedged", "candidate without a text")[2] == "1"


def test_how_full_the_engines_were(run: RunFolder, page: str) -> None:
    parsed = Page(page)
    assert parsed.row("generate-generator")[-2] == "87.6%" and parsed.row("judge-judge")[-2].startswith("–")
    assert page.count('class="plot panel load"') == 1 and "full 88% of the time" in page
    text = RunFolder(run.name).read_text("report", "report.md") or ""
    assert "| 87.6% | 61.2 |" in text or "| 87.6% | 61.3 |" in text


def test_sample_marks_the_choice(page: str) -> None:
    parsed = Page(page)
    assert len([1 for tag, a in parsed.tags if tag == "details" and a.get("class") == "prompt"]) == 30
    card = re.search(r'<li class="candidate chosen">(?:(?!</li>).)*\(c, 0\)(?:(?!</li>).)*</li>', page, re.S)
    assert card and re.findall(r"<code>(\w+)</code>", card[0]) == ["mbr", "judge"]
    assert "0.75" in card[0] and "cut at the limit" in card[0]
    plain = re.search(r'<li class="candidate">(?:(?!</li>).)*\(b, 0\)', page, re.S)
    assert not plain  # the opponent `sample` chose it
    languages = [a.get("data-language") for tag, a in parsed.tags if tag == "details" and "data-language" in a]
    assert languages[:8] == sorted([*QUESTIONS, "ar"])
    assert '<span class="game win">win</span>' in page and '<span class="game invalid">invalid</span>' in page


def test_untrusted_text_cannot_break_out(page: str) -> None:
    parsed = Page(page)  # every tag closes where it should
    assert [a for tag, a in parsed.tags if tag == "script"] == [{}]
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "iframe", "link", "b", "object", "form")]
    assert not [a for _, a in parsed.tags for name in a if name.startswith("on")]
    assert page.count("</main>") == 1 and "\x00" not in page
    shown = [text for text, _ in parsed.texts if "evil" in text]
    assert shown and all("<script>alert('x')</script>" in text and "␀" in text for text in shown)
    for _, attributes in parsed.texts:
        assert attributes["dir"] == "auto" and attributes["lang"]
    arabic = [a for text, a in parsed.texts if "الريحان" in text]
    assert arabic and all(a["lang"] == "ar" for a in arabic)
    japanese = [a for text, a in parsed.texts if "直射日光" in text]
    assert japanese and all(a["lang"] == "ja" for a in japanese)


def test_page_is_self_contained_and_valid(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    for _, a in parsed.tags:
        assert not {"src", "srcset", "data", "action"} & set(a)
        if "href" in a:
            assert str(a["href"])[0] == "#" and str(a["href"])[1:] in parsed.ids
        for name in ("aria-labelledby", "for"):
            assert all(i in parsed.ids for i in str(a.get(name) or "").split())
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert "http" not in re.sub("http-equiv", "", page)
    tags = [t for t, _ in parsed.tags]
    assert tags.count("main") == tags.count("h1") == 1 and {"header", "nav", "footer"} <= set(tags)
    assert all(b - a <= 1 for a, b in zip(parsed.headings, parsed.headings[1:], strict=False))
    assert tags.count("caption") == tags.count("table")
    for tag, a in parsed.tags:
        assert tag != "th" or a.get("scope")
        assert tag != "svg" or (a.get("role") == "img" and a.get("aria-labelledby"))
    assert tags.count("svg") == tags.count("desc") == 7  # pooled, a panel a system, gain against cost, load


def test_banners(run: RunFolder) -> None:
    html = render_html(collect(run, config_with()))
    assert "The judge also selected" in html and 'class="banner loud"' in html
    assert "The judge also wrote the answers" not in html
    shared = {**CONFIG["engines"], "judge": {"kind": "dummy", "model": "small-writer"}}
    quiet = {**CONFIG["selectors"], "judge": {"engine": "reward"}}
    report = collect(run, config_with(engines=shared, selectors=quiet, report={"note": "Plumbing & nothing else"}))
    html = render_html(report)
    assert "The judge also selected" not in html and "The judge also wrote the answers" in html
    assert "Plumbing &amp; nothing else" in html and html.index("Plumbing &amp;") < html.index("Which system won")
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
    assert "written by hot/mbr" in parsed.plain and any(text == "fused <i>" for text, _ in parsed.texts)


def test_contests_of_other_judges_and_opponents_follow(tmp_path: Path) -> None:
    rows = rows_for(3)
    for row in rows:
        row["games"] += [g | {"judge": "other-judge"} for g in row["games"] if g["system"] == "hedged/mbr"]
        row["games"] += [game("mbr", order, "win", opponent="rival") for order in ("ab", "ba")]
    report = collect(write_run(tmp_path / "run", rows), config_with())
    found = [(c.opponent, c.judge, len(c.standings)) for c in report.contests]
    assert found[0] == ("hedged/sample", "big-judge", 4)
    assert set(found[1:]) == {("hedged/sample", "other-judge", 1), ("rival", "big-judge", 1)}
    html = render_html(report)
    parsed = Page(html)
    assert len(parsed.ids) == len(set(parsed.ids)) and "judged by other-judge" in parsed.plain
    assert all(b - a <= 1 for a, b in zip(parsed.headings, parsed.headings[1:], strict=False))


def test_outside_games_take_the_place_of_the_runs(tmp_path: Path) -> None:
    lines = [f"{p},en,theirs,ours,{o},{s}" for p in range(60) for o, s in (("ab", 1), ("ba", 1 if p % 6 else 0))]
    (tmp_path / "games.csv").write_text("prompt_id,language,system,opponent,order,score\n" + "\n".join(lines))
    config = config_with(winrate={"games": str(tmp_path / "games.csv"), "draws": 200})
    report = collect(write_run(tmp_path / "run", rows_for(1)), config)
    assert headline(report).title == "theirs beats ours"
    assert Page(render_html(report)).row("theirs")[1] == pct(110 / 120)


def test_markdown_says_the_same(run: RunFolder, page: str) -> None:
    text = RunFolder(run.name).read_text("report", "report.md")
    assert text is not None
    report = collect(run, config_with())
    for s in report.contests[0].standings:
        assert f"{pct(s.pooled.win_rate)} | {wording.interval(s.pooled.low, s.pooled.high)}" in text
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.S | re.M)
    assert "<script" not in outside and "<img" not in outside and "\u202e" not in text
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    assert rows and not [line for line in rows if not line.endswith("|")]


def test_markdown_escapes() -> None:
    assert fence("a\n```\nb").splitlines()[0] == "````text"
    assert escape_markdown("a|b\n<c> *d* \u202e") == r"a\|b &lt;c&gt; \*d\* ⟦U\+202E⟧"


def test_plan_sentences() -> None:
    plans = {"mix": {"kind": "mixed", "n": 4}, "one": {"kind": "greedy"}}
    config = config_with(plans=plans)
    assert wording.plan_sentence(config.sampling) == "one greedy answer and 2 samples at temperature 0.7 (min-p 0.1)"
    assert wording.plan_sentence(config.plans["mix"]) == "4 samples at temperatures 0.3, 0.7 and 1"
    assert wording.plan_sentence(config.plans["one"]) == "one greedy answer"


def test_job_prints_the_path(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    report_command.run(config_with(out=run.name))
    assert capsys.readouterr().out.strip() == f"report: {run.path('report', 'index.html')}"


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedTableError):
        build_report(RunFolder(str(tmp_path)), config_with())


def test_needs_neither_ray_nor_vllm() -> None:
    code = "import sys, pipeline.report.render; sys.exit(any(m in sys.modules for m in ('ray', 'vllm', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
