"""The report's content: numbers equal the statistics', untrusted text stays text, claims respect the intervals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands import report as report_command
from pipeline.config import Config, build_config
from pipeline.errors import UnfinishedTableError
from pipeline.report import plots, wording
from pipeline.report.collect import CLUSTERS_TO_CLAIM, Report, collect, side
from pipeline.report.render import build_report, escape_markdown, fence, render_html
from pipeline.schema import COLUMNS, with_provenance
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.run_games import load_run_games
from pipeline.stats.winrate import simultaneous_winrates, winrates
from pipeline.storage import MARKER, RunFolder

ATTACK = "</details></div></main><script>alert('x')</script><img src=x onerror=alert(1)> <b>no end \u202eevil\x00 | `x`"
QUESTIONS = {
    "en": "How can I keep basil fresh for a week?",
    "de": "Wie bleibt Basilikum eine Woche lang frisch?",
    "es": "¿Cómo mantengo fresca la albahaca durante una semana?",
    "fr": "Comment garder du basilic frais pendant une semaine ?",
    "ja": "バジルを一週間新鮮に保つにはどうすればいいですか？",
    "ru": "Как сохранить базилик свежим в течение недели?",
    "zh": "怎样让罗勒保鲜一周？",
}
ANSWERS = {
    "en": "Trim the stems and stand the bunch in a glass of water, out of the sun.",
    "de": "Stiele anschneiden und den Bund wie Blumen in ein Glas Wasser stellen.",
    "es": "Recorta los tallos y pon el manojo en un vaso de agua, sin sol directo.",
    "fr": "Coupez les tiges et placez le bouquet dans un verre d’eau, à l’abri du soleil.",
    "ja": "茎を切りそろえ、水を入れたコップに立てて、直射日光を避けてください。骨・直・角の字形も確認。",
    "ru": "Подрежьте стебли и поставьте пучок в стакан с водой, подальше от солнца.",
    "zh": "剪去茎的末端，把罗勒插在水杯里，避免阳光直射。骨、直、角的字形也要看。",
}
METHODS = ("sample", "greedy", "mbr", "best_of_n", "judge")
CONFIG: dict[str, Any] = {
    "engines": {
        "generator": {"kind": "dummy", "model": "small-writer"},
        "reward": {"kind": "dummy", "model": "reward-model"},
        "judge": {"kind": "dummy", "model": "big-judge"},
    },
    "sampling": {"kind": "hedged", "n": 3, "temperature": 0.7, "min_p": 0.1, "max_tokens": 64},
    "selectors": {
        "sample": {},
        "greedy": {},
        "mbr": {"utility": "chrf"},
        "best_of_n": {"engine": "reward"},
        "judge": {"engine": "judge"},
    },
    "judge": {"engine": "judge", "opponent": "sample"},
    "winrate": {"draws": 200},
    "report": {"title": "Keeping basil fresh", "samples": 40},
}


def candidate(text: str | None, origin: str, language: str, **more: Any) -> dict[str, Any]:
    base = {f.name: None for f in COLUMNS["candidates"].value_type} | {"plan": "hedged", "model": "small-writer"}
    base |= {"text": text, "origin": origin, "language": language, "finish_reason": "stop", "num_tokens": 12, "seed": 7}
    return base | {"temperature": 0.0 if origin == "greedy" else 0.7, "logprob": -8.25} | more


def game(system: str, order: str, verdict: str, **more: Any) -> dict[str, Any]:
    score = {"win": 1.0, "tie": 0.5, "loss": 0.0, "invalid": None}[verdict]
    base = {"system": f"hedged/{system}", "opponent": "hedged/sample", "judge": "big-judge", "mass": 0.91}
    base |= {"template": "pairwise@abc123", "order": order, "score": score, "verdict": verdict, "reason": None}
    return base | more


def make_row(row_id: int, language: str, question: int, wins: bool = False) -> dict[str, Any]:
    """A prompt with three candidates: mbr and the judge take the third, best_of_n the greedy one."""
    texts = [f"{ANSWERS[language]} ({n}, {question})" for n in ("a", "b", "c")]
    picks = {"sample": 1, "greedy": 0, "mbr": 2, "best_of_n": 0, "judge": 2}
    verdicts = {
        "greedy": ("loss", "win") if row_id % 3 else ("tie", "tie"),
        "mbr": ("win", "win") if wins or row_id % 2 else ("loss", "tie"),
        "best_of_n": ("win", "invalid") if row_id % 7 == 3 else ("win", "loss") if row_id % 4 else ("win", "win"),
        "judge": ("win", "win") if row_id % 5 else ("tie", "win"),
    }
    spent = {"job": "select", "stage": "select:judge", "model": "big-judge", "requests": 3}
    tokens = {"prompt_tokens": 300, "cached_tokens": 150, "completion_tokens": 6}
    return {
        "row_id": row_id,
        "prompt_id": f"basil-{question}-{language}",
        "cluster_id": f"basil-{question}",
        "task": "open",
        "language": language,
        "messages": [{"role": "user", "content": QUESTIONS[language], "name": None, "tool_calls": None}],
        "reference": None,
        "candidates": [
            candidate(text, "sample" if i else "greedy", language, finish_reason="length" if i == 2 else "stop")
            for i, text in enumerate(texts)
        ],
        "scores": [
            {"scorer": "mbr", "plan": "hedged", "values": [0.25, 0.5, 0.75]},
            {"scorer": "best_of_n", "plan": "hedged", "values": [1.5, None, -0.125]},
        ],
        "selections": [
            {
                "plan": "hedged",
                "method": method,
                "index": index,
                "text": texts[index],
                "score": None,
                "detail": json.dumps({"fallback": "no valid score"}) if method == "best_of_n" else None,
            }
            for method, index in picks.items()
        ],
        "answers": [],
        "games": [
            game(system, order, verdict)
            for system, both in verdicts.items()
            for order, verdict in zip(("ab", "ba"), both, strict=True)
        ],
        "usage": [
            {"job": "generate", "stage": "generate:hedged", "model": "small-writer", "requests": 2}
            | {"prompt_tokens": 80, "cached_tokens": 40, "completion_tokens": 36},
            spent | tokens,
            spent | tokens | {"job": "judge", "stage": "judge", "requests": 8},
        ],
        "errors": [],
    }


def special_rows(first: int) -> list[dict[str, Any]]:
    """An Arabic row, a malicious one, and one that failed."""
    arabic = make_row(first, "en", 90)
    arabic |= {"prompt_id": "basil-ar", "cluster_id": "basil-ar", "language": "ar"}
    arabic["messages"][0]["content"] = "كيف أحافظ على الريحان طازجًا لمدة أسبوع؟"
    for i, c in enumerate(arabic["candidates"]):
        c |= {"language": "ar", "text": f"اقطع أطراف السيقان وضع الحزمة في كوب ماء ({i}) بعيدًا عن الشمس."}
    for s in arabic["selections"]:
        s["text"] = arabic["candidates"][s["index"]]["text"]
    arabic["games"] = [g | {"score": None, "verdict": "invalid", "mass": 0.2} for g in arabic["games"]]
    evil = make_row(first + 1, "en", 91)
    evil |= {"prompt_id": ATTACK, "cluster_id": "evil"}
    evil["messages"] = [{"role": ATTACK, "content": ATTACK, "name": None, "tool_calls": None}]
    evil["candidates"] = [
        candidate(ATTACK, "greedy", 'en" onmouseover="alert(1)', reasoning=ATTACK),
        candidate("W" * 400 + " " + ATTACK, "sample", "en"),
        candidate(None, "sample", "en", error=ATTACK, finish_reason=None, num_tokens=None, logprob=None),
    ]
    evil["selections"] = [
        {"plan": "hedged", "method": m, "index": 0, "text": ATTACK, "score": None, "detail": None} for m in METHODS[:4]
    ] + [{"plan": "hedged", "method": "judge", "index": None, "text": None, "score": None, "detail": 'x "fallback"'}]
    evil["games"] = [g | {"reason": ATTACK} for g in evil["games"]]
    evil["errors"] = [{"job": "select", "stage": "select:judge", "kind": "ValueError", "message": ATTACK}]
    return [arabic, evil]


def write_run(folder: Path, rows: list[dict[str, Any]], parts: int = 2) -> RunFolder:
    run = RunFolder(str(folder))
    schema = with_provenance(pa.schema(list(COLUMNS.items())), {"lemonpress": "test"})
    run.make("games")
    size = -(-len(rows) // parts)
    for i in range(parts):
        table = pa.Table.from_pylist(rows[i * size : (i + 1) * size], schema=schema)
        pq.write_table(table, run.path("games", f"part-{i}.parquet"))
    summary = {"name": "judge-judge", "rows": len(rows), "failed": 1, "requests": 8 * len(rows), "prompt_tokens": 1000}
    summary |= {"cached_tokens": 250, "completion_tokens": 77, "seconds": 12.5}
    run.write_json({"rows": len(rows), "summary": summary}, "games", MARKER)
    passes = {"generate-generator": summary | {"name": "generate-generator", "seconds": 61.25}}
    versions = {"lemonpress": "9.8.7", "python": "3.11.0", "packages": {"pyarrow": "20"}}
    run.write_json({**versions, "passes": passes}, "manifest.json")
    return run


def rows_for(questions: int, wins: bool = False) -> list[dict[str, Any]]:
    keys = [(q, language) for q in range(questions) for language in QUESTIONS]
    return [make_row(i, language, q, wins) for i, (q, language) in enumerate(keys)]


def config_with(**changes: Any) -> Config:
    return build_config({**CONFIG, **changes})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    rows = rows_for(4)
    return write_run(tmp_path / "run", rows + special_rows(len(rows)))


@pytest.fixture
def page(run: RunFolder) -> str:
    return Path(build_report(run, config_with())).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Parses a page, checks that every tag is closed, and keeps what the tests look at."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[int] = []
        self.plain = ""
        self.feed(html)
        self.close()
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"repeated attribute in <{tag}>"
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(str(found["id"]))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if "text" in str(found.get("class", "")).split():
            self.texts.append(("", found))
        if tag not in self.VOID:
            self.stack.append((tag, found))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1][0] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1][0] in ("style", "script"):
            return
        self.plain += data
        if self.stack and "text" in str(self.stack[-1][1].get("class", "")).split():
            self.texts[-1] = (self.texts[-1][0] + data, self.texts[-1][1])
        if any(tag in ("td", "th") for tag, _ in self.stack):
            self.rows[-1][-1] += data

    def row(self, *start: str) -> list[str]:
        """The one table row whose first cells are these."""
        cells = [[" ".join(c.split()) for c in row] for row in self.rows]
        found = [row for row in cells if tuple(row[: len(start)]) == start]
        assert found, f"no row starts with {start}"
        return found[0]


def pct(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


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
    assert tags.count("svg") == tags.count("desc") == 5  # pooled, and a panel a system


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


def headline_of(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[Report, wording.Headline]:
    report = collect(write_run(tmp_path / "run", rows), config_with())
    return report, wording.headline(report)


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


def test_systems_of_several_plans_keep_their_full_name(tmp_path: Path) -> None:
    rows = rows_for(2)
    for row in rows:
        fused = row["selections"][0] | {"plan": "hot", "method": "mbr", "index": -1, "text": "fused <i>"}
        row["selections"].append(fused)
    report = collect(write_run(tmp_path / "run", rows), config_with(plans={"hot": {"kind": "single", "n": 4}}))
    parsed = Page(render_html(report))
    assert parsed.row("hedged/mbr") and parsed.row("hot/mbr")[3] == "14"
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
    assert wording.headline(report).title == "theirs beats ours"
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


def test_axis() -> None:
    assert plots.axis_for([0.45, 0.58]).half == pytest.approx(0.1)
    assert plots.axis_for([0.3, None]).half == pytest.approx(0.2)
    assert plots.axis_for([0.0]).half == plots.axis_for([]).half == 0.5
    assert plots.Axis(0.2).at(0.5) == 0.5 and plots.Axis(0.1).at(0.9) == 1.0


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


def test_few_clusters_claim_nothing_however_short_the_interval() -> None:
    assert side(0.60, 0.61, n_clusters=CLUSTERS_TO_CLAIM - 1) == "even"
    assert side(0.60, 0.61, n_clusters=CLUSTERS_TO_CLAIM) == "above"
    assert side(0.39, 0.41, n_clusters=CLUSTERS_TO_CLAIM) == "below"
    assert side(None, None, n_clusters=100) == "none"
