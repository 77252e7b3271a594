"""The card: what it says, and that hostile texts do nothing in it."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from tests.jobs.export import data


def split_card(folder: Path) -> tuple[dict[str, Any], str]:
    """The front matter, and the text after it."""
    _, front, text = re.split(r"^---\n", (folder / "README.md").read_text("utf-8"), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), text


def cells(text: str) -> set[tuple[str, ...]]:
    """The rows of all tables, as a reader sees them."""
    shown = text.replace("&nbsp;", " ").replace("\\", "")
    return {tuple(c.strip() for c in line.strip("|").split("|")) for line in shown.splitlines()}


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: set[str | None] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.styles.update(value for name, value in attrs if name == "style")


def test_the_front_matter_names_splits_languages_and_licence(tmp_path: Path) -> None:
    rows = data.plain_rows(40)
    for row in rows[::2]:
        row["language"] = "zh-Hant"
    done = data.export(data.write(tmp_path, rows), language=False, licenses={"org/writer": "apache-2.0"})
    front, text = split_card(done.folder)
    (config,) = front["configs"]
    assert [f["split"] for f in config["data_files"]] == ["train", "test"] and config["config_name"] == "default"
    for file in config["data_files"]:
        assert re.fullmatch(rf"data/{file['split']}-\*-of-00001-[0-9a-f]{{12}}\.parquet", file["path"])
        assert len(list(done.folder.glob(file["path"]))) == 1
    assert front["language"] == ["en", "zh"] and front["license"] == "apache-2.0" and "lemonpress" in front["tags"]
    assert (front["size_categories"], front["task_categories"]) == (["n<1K"], ["text-generation"])
    assert "| org/writer | apache-2.0 |" in text


def test_the_card_says_where_the_data_came_from(tmp_path: Path) -> None:
    run = data.write(tmp_path, data.plain_rows(5))
    rate = {"system": "hedged/best", "opponent": "hedged/sample", "language": "all", "n_prompts": 5}
    rates = [rate | {"win_rate": 0.625, "ci_low": 0.55, "ci_high": 0.7}, rate | {"language": "en", "win_rate": 0.111}]
    pq.write_table(pa.Table.from_pylist(rates), tmp_path / "winrates.parquet")
    front, text = split_card(data.export(run).folder)
    assert "license" not in front and "Not stated. Check the licences" in text
    rows = cells(text)
    assert {
        ("run", "r1"),
        ("Lemonpress of the run", "9.8.7"),
        ("method", "best"),
        ("template of judge, pairwise", "abcdef"),
        ("generator", "dummy", "org/writer", "-", "abc123"),
        ("org/writer", "abc123", "-", "5", "████████ 100%"),
        ("hedged/sample", "62.5%", "55.0–70.0%", "5"),
        ("seed of the run", "1"),
    } <= rows
    assert "Split by cluster, train 0.9, test 0.1:" in text
    assert str(tmp_path) not in text and "11.1%" not in text


def test_the_card_counts_by_language_and_says_what_every_filter_did(tmp_path: Path) -> None:
    rows = data.plain_rows(40)
    for row in rows[10:]:
        row["language"] = "de"
    for row in rows[5:15]:
        row["candidates"][0]["finish_reason"] = "length"
    done = data.export(data.write(tmp_path, rows), language=False, splits={"train": 1.0})
    assert {
        ("German (de)", "25", "███████ 83%", "30", "25"),
        ("English (en)", "5", "████ 50%", "10", "5"),
        ("**all**", "30", "██████ 75%", "40", "30"),
        ("answer cut at the token limit", "10", "██ 25%", "`truncated=true`", "5", "5"),
        ("answer in another language", "0", "0%", "`language=false`", "0", "0"),
    } <= cells(split_card(done.folder)[1])


def test_the_card_says_how_good_the_answers_are(tmp_path: Path) -> None:
    rows = data.plain_rows(4)
    for i, row in enumerate(rows):
        row |= {"task": "math", "language": "de" if i else "en"}
        values = [float(i > 1), 0.0, 0.0]
        row["scores"].append({"scorer": "metric:accuracy", "plan": "hedged", "values": values})
    rows[3]["candidates"][0]["finish_reason"] = "length"  # left out: counted on the right only
    known = {"task": "math", "metric": "accuracy", "base": "hedged/sample", "n_prompts": 4, "difference": 0.5}
    known |= {"difference_low": 0.1, "difference_high": 0.9}
    stored = [
        known | {"system": "hedged/best", "language": "all", "mean": 0.5},
        known | {"system": "hedged/sample", "language": "all", "mean": 0.0},
    ]
    run = data.write(tmp_path, rows)
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "scores.parquet")
    text = split_card(data.export(run, language=False).folder)[1]
    assert ("**all**", "3", "33.3%", "4", "50.0%", "0.0%", "+50.0 (+10.0 to +90.0)") in cells(text)
    (tmp_path / "scores.parquet").unlink()
    text = split_card(data.export(run, language=False).folder)[1]
    assert {("German (de)", "2", "50.0%"), ("English (en)", "1", "0.0%"), ("**all**", "3", "33.3%")} <= cells(text)


def test_samples_keep_their_lines_and_wrap(tmp_path: Path) -> None:
    answer = "First,\n  a step | with *stars*.\n\nAnswer: 4" + "\nx" * 60
    run = data.write(tmp_path, [data.row(0, [answer, "No."], [1.0, 0.0])])
    text = split_card(data.export(run, format="dpo", language=False).folder)[1]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<td>First,<br>\u00a0\u00a0a step | with *stars*.<br><br>Answer: 4<br>x<br>" in html
    assert html.count("<br>x") < 60 and "… [cut here]</td>" in html
    assert "<td><strong>rejected</strong>, score 0</td>" in html


@pytest.mark.parametrize("format", ["sft", "dpo", "reward", "kto"])
def test_hostile_texts_inject_nothing(tmp_path: Path, format: str) -> None:
    row = data.row(0, [data.ATTACK, "W" * 3000 + data.ATTACK], [1.0, 0.0], language='en"\n---\n')
    row["messages"] = [{"role": data.ATTACK, "content": data.ATTACK}, {"role": "user", "content": data.ATTACK}]
    for candidate in row["candidates"]:
        candidate |= {"model": data.ATTACK, "revision": data.ATTACK, "reasoning": data.ATTACK}
    row["task"] = data.ATTACK
    row["scores"].append({"scorer": f"metric:{data.ATTACK}", "plan": "hedged", "values": [0.25, 0.5]})
    for item in (*row["selections"], *row["scores"]):
        item["plan"] = data.ATTACK
    for candidate in row["candidates"]:
        candidate["plan"] = data.ATTACK
    run = data.write(tmp_path, [copy.deepcopy(row)])
    run.write_json({"run_id": data.ATTACK, "engines": {data.ATTACK: {"model": data.ATTACK}}}, "manifest.json")
    keys: dict[str, Any] = {"format": format, "language": False, "splits": {"train": 1.0}, "reasoning": "keep"}
    front, text = split_card(data.export(run, **keys, licenses={data.ATTACK: data.ATTACK}).folder)
    assert front["license"] == "other" and "language" not in front
    assert sorted(front) == ["configs", "license", "size_categories", "tags", "task_categories"]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tags = Tags(html)
    text_tags = {"h1", "h2", "h3", "p", "br", "wbr", "strong", "pre", "code"}
    assert tags.found <= {"table", "thead", "tbody", "tr", "th", "td", *text_tags}
    assert tags.attributes <= {"class", "style"} and tags.styles <= {"text-align:right"}
    running = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    assert "alert(1)" in html and "\u202e" not in html
    assert not re.search(r"(?<!\\)www\.|(?<!\\)https?:", re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S))
    assert "evil" in running and "25.0%" in running


def test_a_secret_in_a_sample_is_hidden(tmp_path: Path) -> None:
    key = "hf_" + "a1B2" * 6
    row = data.row(0, [f"My key is {key}, use it.", "Other one."], [1.0, 0.0])
    assert key not in (data.export(data.write(tmp_path, [row])).folder / "README.md").read_text("utf-8")
