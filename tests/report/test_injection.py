"""The report with hostile strings in every place that data, models and endpoints fill: page and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from pipeline.core.safety import escape_line, escape_markdown, fence, on_page, page_text
from pipeline.jobs.export.markdown import plain
from pipeline.report.model import Report
from pipeline.report.render import build_report
from tests.report.runs import ATTACK, CONFIG, Page, config_with, make_row, rows_for, special_rows, write_run

LINKS = (
    "![x](http://evil.example/pixel.png) [click](javascript:alert(1)) <http://evil.example> http://evil.example "
    "[ref]: http://evil.example\n# Heading\n| a | b |\n|---|---|\n```\n~~~\n</summary></details><iframe src=//evil>"
    "<!-- --><![CDATA[ ]]> &lt;script&gt; {{ 7*7 }} {% raw %}"
)
EVIL = ATTACK + LINKS


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(page, Markdown) of a run whose names, texts, reasons and settings are all hostile."""
    rows = rows_for(3)
    rows += special_rows(len(rows))
    evil = make_row(len(rows), "en", 95)
    evil |= {"prompt_id": EVIL, "cluster_id": EVIL, "language": "en", "task": EVIL, "reference": EVIL}
    evil["messages"] = [{"role": EVIL, "content": EVIL, "name": EVIL, "tool_calls": EVIL}]
    for c in evil["candidates"]:
        c |= {"text": EVIL, "reasoning": EVIL, "model": EVIL, "finish_reason": EVIL, "error": None}
    for s in evil["selections"]:
        s |= {"text": EVIL, "detail": EVIL}
    evil["games"] = [g | {"reason": EVIL} for g in evil["games"]]
    evil["errors"] = [{"job": EVIL, "stage": EVIL, "kind": EVIL, "message": EVIL}]
    evil["usage"] = [u | {"model": EVIL, "stage": EVIL} for u in evil["usage"]]
    rows.append(evil)
    for row in rows:  # a hostile judge and template, in every game, or the contests would be several
        row["games"] = [g | {"judge": EVIL, "template": EVIL} for g in row["games"]]
    run = write_run(tmp_path_factory.mktemp("report"), rows)
    config = config_with(report={**CONFIG["report"], "title": EVIL, "note": EVIL})
    page = Path(build_report(run, config)).read_text(encoding="utf-8")
    markdown = run.read_text("report", "report.md")
    assert markdown is not None
    return page, markdown


def test_the_page_has_no_element_or_address_but_its_own(report: tuple[str, str]) -> None:
    page = report[0]
    parsed = Page(page)  # every tag closes where it should
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == tags.count("main") == 1
    assert not {"img", "iframe", "object", "embed", "form", "link", "base", "b"} & set(tags)
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "action", "xlink:href", "srcset"):
            assert str(attributes.get(name) or "#").startswith("#"), (tag, name)
    assert "alert('x')" in parsed.plain and "http://evil.example/pixel.png" in parsed.plain  # shown, as text
    assert "49" not in re.findall(r"no end .{0,400}", parsed.plain)[0] and "{{ 7*7 }}" in parsed.plain


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not [a for a in attrs if a[0] not in ("class", "style")], (tag, attrs)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def test_the_markdown_renders_to_nothing_but_text(report: tuple[str, str]) -> None:
    """Rendered as a forge would: CommonMark with raw HTML, tables and links of bare addresses."""
    html = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(report[1])
    tags = Tags(html).found
    allowed = {"h1", "h2", "p", "strong", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "code", "pre"}
    assert set(tags) <= allowed | {"details", "summary", "wbr"}
    assert tags.count("details") == tags.count("summary") == report[1].count("\n<details><summary>")
    assert tags.count("h1") == 1
    outside = re.sub(r"^(`{3,})text\n.*?^\1$|^<details><summary>.*$", "", report[1], flags=re.S | re.M)
    assert "evil" in outside and not re.search("https?:/", outside), "a forge would make it a link"
    assert "\u202e" not in report[1] and "\x00" not in report[1]


@pytest.mark.parametrize("render", [escape_markdown, escape_line, plain])
def test_no_address_becomes_a_link_by_itself(render: Callable[[str], str]) -> None:
    """Forges find addresses in text whose escapes are undone already: no text between two tags may hold one."""
    said = "see http://evil.example/x or www.evil.example, a@evil.example, HTTPS://EVIL.example (ftp://x) mailto:a@b.c"
    html = MarkdownIt("commonmark", {"html": True}).render(f"x {render(said)}\n")
    texts = Texts(html).found
    assert "".join(texts).strip() == f"x {said}"  # nothing of it is lost
    for text in texts:
        assert not re.search(r"(?i)(https?|ftp)://|www\.\w|[\w.+-]@[\w-]+\.", text), text


class Texts(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)
        self.close()

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_signs_for_what_acts_or_mirrors_and_isolates_for_names_from_right_to_left(report: tuple[str, str]) -> None:
    for text in (escape_markdown("a\x9bb\u202ec\u2066"), page_text("a\x9bb\u202ec\u2066"), fence("\x9b\u202e\u2066")):
        assert not re.search("[\x80-\x9f\u202a-\u202e\u2066\u2067]", text) and "202E" in text
    for text in report:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066\u2067]", text)
    assert escape_markdown("שלום") == "\u2068שלום\u2069" and escape_markdown("a 5") == "a 5"
    named = Report.short(SimpleNamespace(_short={}), "שלום/x")  # type: ignore[arg-type]
    assert on_page(f"{named} 12") == "\u2068שלום/x\u2069 12" and on_page("\u2068a 12") == "⟦U+2068⟧a 12"
