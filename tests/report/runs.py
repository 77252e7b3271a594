"""Runs with games, written by hand, and a parser for the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.load import Config, build_config
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.schema import COLUMNS, with_provenance

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
    run.write_json({"rows": len(rows), "passes": {"judge-judge": summary}}, "games", MARKER)
    load = {"full": 0.876, "capacity": 8, "width": 1.0, "mean": [8.0, 7.5, 2.0], "low": [8, 7, 0], "high": [8, 8, 4]}
    passes = {"generate-generator": summary | {"name": "generate-generator", "seconds": 61.25, "load": load}}
    versions = {"lemonpress": "9.8.7", "python": "3.11.0", "packages": {"pyarrow": "20"}}
    run.write_json({**versions, "passes": passes}, "manifest.json")
    return run


def rows_for(questions: int, wins: bool = False) -> list[dict[str, Any]]:
    keys = [(q, language) for q in range(questions) for language in QUESTIONS]
    return [make_row(i, language, q, wins) for i, (q, language) in enumerate(keys)]


def config_with(**changes: Any) -> Config:
    return build_config({**CONFIG, **changes})


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
        self.plain = self.spaced = ""  # the second with a space between elements
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
        self.spaced += data + " "
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
