"""Whatever a user or a model wrote: readers of prompts, verdicts and answers neither raise nor take long.

The fuzz runs build texts from the pieces that the parsers look for, which random characters would hardly ever hit.
"""

from __future__ import annotations

import csv
import json
import math
import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.folder import RunFolder
from pipeline.core.languages import identify, is_language_tag, language_name
from pipeline.core.remote import is_uri
from pipeline.core.row import Row
from pipeline.core.safety import escape_markdown, fence, json_text, one_line, redact, visible
from pipeline.engines.dummy import _ANSWERS
from pipeline.engines.labels import latin, match_label
from pipeline.engines.text import chat_messages, split_reasoning
from pipeline.execution.passes import _cause
from pipeline.jobs.export.markdown import plain, text_cell
from pipeline.judging.audit import altered
from pipeline.judging.names import is_candidate
from pipeline.judging.pleas import without_pleas
from pipeline.judging.replies import read_reply
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import LETTERS, Verdict
from pipeline.prompts import formats
from pipeline.prompts.columns import ROLES, as_text, clean, conversation
from pipeline.prompts.sources import FileSource, read_prompts
from pipeline.stats.failures import _SPECIFIC
from pipeline.stats.tables import no_formula
from pipeline.tasks.math import Math, answer
from pipeline.tasks.translation import Translation, number_match


def parse_lines(name: str, before: int, table: pa.Table) -> Any:
    return formats.parse_lines(name, before, table["text"].to_pylist())


MATH, TRANSLATION = Math(), Translation()
SLOWEST = 5.0  # seconds a text, on a busy machine; most take 0.1 ms, and a LaTeX term 30 ms

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
turns = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(ROLES) | json_values, "content": json_values, "tool_calls": json_values}
)
numbers = st.floats(0, 0.4) | st.floats(0, 1) | st.floats() | st.integers(-2, 2)


# ---------------------------------------------------------------------------------------------------- reading prompts


@given(json_values | st.lists(turns | json_values, max_size=4))
def test_any_value_is_read_as_a_conversation_or_its_problems_are_said(value: Any) -> None:
    problems: list[str] = []
    messages = conversation(value, problems)
    assert problems or any(turn["role"] == "user" and turn["content"].strip() for turn in messages)
    for turn in messages:
        assert set(turn) <= {"role", "content", "name", "tool_calls"}
        assert all(isinstance(text, str) for text in turn.values())
        "".join(turn.values()).encode("utf-8")  # can be stored


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.text(min_size=1)), min_size=1))
def test_a_well_formed_conversation_comes_back_as_it_is_also_from_json(said: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": clean(text, "", [])} for role, text in said]
    problems: list[str] = []
    assert conversation(messages, problems) == messages == conversation(json.dumps(messages), [])
    asked = [text for role, text in said if role == "user"]
    assert bool(problems) == (not any(text.strip() for text in asked))


@given(json_values)
def test_any_value_has_a_text_or_none_and_text_is_untouched(value: Any) -> None:
    found = as_text(value)
    assert found is None or isinstance(found, str)
    if isinstance(value, str):
        assert found == (value or None)


@given(st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=4), max_size=5), st.booleans())
def test_json_lines_come_back(items: list[dict[str, Any]], ascii_only: bool) -> None:
    lines = pa.array([json.dumps(item, ensure_ascii=ascii_only) for item in items], pa.string())
    found = [item for _, item, _ in parse_lines("a", 0, pa.table({"text": lines}))]
    assert json.dumps(found) == json.dumps(items)


@pytest.mark.usefixtures("own_datasets_cache")
def test_random_csv_fields_come_back(run: RunFolder, tmp_path: Path) -> None:
    rng = random.Random(5)
    atoms = ["a", " ", ",", '"', "\n", "\r\n", "\r", "\t", "'", "\\", "ü", "\u2028", "\ufeff", "#", "NA", "0.10"]
    rows = [["x" + "".join(rng.choices(atoms, k=rng.randrange(12))) for _ in range(3)] for _ in range(300)]
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["prompt", "b", "c"], *rows])
    read_prompts(FileSource(path=str(path)), run)
    found = run.table("prompts", ["row_id", "messages", "source"]).to_pylist()
    assert [[r["messages"][0]["content"], r["source"]["b"], r["source"]["c"]] for r in found] == rows


@pytest.mark.usefixtures("own_datasets_cache")
def test_a_thousand_random_lines_become_a_thousand_rows(run: RunFolder, tmp_path: Path) -> None:
    rng = random.Random(11)
    atoms: list[Any] = ["", " ", "text", "\x00", "a\ud800", 5, -1.5, 1e400, None, True, [], {}, ["a"], {"role": "user"}]
    atoms += [[{"role": "user", "content": "q"}], [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "[{"]
    names = ["prompt", "messages", "language", "task", "reference", "cluster_id", "other", "more"]
    items = [{n: rng.choice(atoms) for n in rng.sample(names, rng.randrange(len(names)))} for _ in range(999)]
    items.append(dict.fromkeys(names, "text"))  # so that all columns exist
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    report = read_prompts(FileSource(path=str(path)), run)
    rows = run.table("prompts", ["row_id", "messages", "source", "errors"]).to_pylist()
    assert report.rows == len(rows) == 1000
    good = [row for row in rows if not row["errors"]]
    assert report.bad_rows == 1000 - len(good) and 0 < len(good) < 1000
    assert all(any(turn["role"] == "user" and turn["content"] for turn in row["messages"]) for row in good)
    for row, item in zip(rows, items, strict=True):
        if row["errors"]:
            held = json.loads(row["source"]["_original"])
            assert json.dumps(held.get("messages")) == json.dumps(item.get("messages"))


# ------------------------------------------------------------------------------------------------------------ verdicts


@given(st.dictionaries(st.sampled_from("ABC"), numbers, min_size=3, max_size=3), st.booleans())
def test_any_numbers_give_a_score_in_0_to_1_or_an_invalid_verdict(probs: dict[str, float], soft: bool) -> None:
    said = Verdict("ABC", probs)
    score = said.score(soft)
    usable = all(p >= 0 for p in probs.values()) and 0.5 <= sum(probs.values()) <= 1.05
    assert (score is not None) == usable == (said.pick(1) is not None)
    if score is None:
        return
    assert 0 <= score <= 1
    swapped = Verdict("BAC", probs).score(soft)
    assert swapped is not None and math.isclose(score + swapped, 1, abs_tol=1e-9)
    assert probs[str(said.pick(1))] == max(probs.values())


@given(st.dictionaries(st.sampled_from("12345"), numbers, min_size=5, max_size=5))
def test_any_numbers_give_a_grade_between_the_labels_or_none(probs: dict[str, float]) -> None:
    grade = Verdict("12345", probs).grade()
    assert grade is None or 1 - 1e-9 <= grade <= 5 + 1e-9


@settings(deadline=None)  # the first reply compiles the expressions for its labels
@given(st.sampled_from(LETTERS[:5]), st.text(alphabet=" .*()[]\n:\"'`#", max_size=20), st.text(" .)*\n", max_size=20))
def test_a_label_in_any_punctuation_is_read(label: str, before: str, after: str) -> None:
    assert read_reply(before + label + after, LETTERS[:5]).label == label


@settings(deadline=None)  # the first reply compiles the expressions for its labels
@given(st.text(), st.sampled_from([("A", "B", "C"), ("1", "2", "3", "4", "5"), LETTERS]))
def test_any_words_are_a_label_that_they_hold_or_none(text: str, labels: tuple[str, ...]) -> None:
    found = read_reply(text, labels).label
    assert found is None or found in latin(unicodedata.normalize("NFKC", text).upper())
    assert match_label(text, labels) in (None, *labels)


@given(st.text(), st.booleans())
def test_reasoning_and_answer_are_parts_of_the_text(text: str, opened: bool) -> None:
    reasoning, rest = split_reasoning(text, opened=opened)
    assert rest in text and (reasoning or "") in text


# ------------------------------------------------------------------------------------------------------------- answers

languages = st.sampled_from(["en", "de", "zh", "bn", "xx-unknown", "", None])


@settings(deadline=None)
@given(st.text(), st.text(max_size=20) | st.none(), languages)
def test_any_text_is_canonicalised_once_and_graded_in_0_to_1(text: str, reference: str | None, language: str) -> None:
    row = Row(1, "p", language=language, reference=reference)
    for task in (MATH, TRANSLATION):
        canonical = task.canonicalise(text, row)
        if canonical is not None:
            assert task.canonicalise(canonical, row) == canonical
        quality = task.verify(text, reference, row)
        assert quality is None or 0 <= quality <= 1
        for values in task.measure([text, None], row).values():
            assert all(value is None or 0 <= value <= 1 for value in values)
    share = number_match(text, reference or "")
    assert share is None or 0 <= share <= 1


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**9))
def test_a_canonical_number_is_its_own_answer(numerator: int, denominator: int) -> None:
    row = Row(1, "p", language="en")
    for text in (str(numerator), f"{numerator}/{denominator}"):
        canonical = MATH.canonicalise(f"Answer: {text}", row)
        assert canonical is not None and MATH.verify(canonical, text, row) == 1.0


# --------------------------------------------------------------------------------------------------------------- fuzz

PIECES = [
    *(str(d) for d in range(10)), ".", ",", " ", "-", "/", "'", "e", "=", "^", "{", "}", "(", ")", "[", "]", "\n", "%",
    "$", "€", "\\", "\\boxed{", "\\frac{", "}{", "\\sqrt{", "\\times ", "\\pi", "\\text{", "Answer: ", "答え：",
    "คำตอบ", "####", "**", "x", "×", "万", "十", "三", "½", "²", "٣", "১", "\u202f", "\u200f", "٫", "٬", "million",
    "Ответ: ", "is ", "A", "B", "(C)", "A.", "<think>", "</think>", "<answer_a>", "</answer_a>", "[[A]]", '{"', '"}',
    "\x00", "\ud800", "\U0001f600", "\r\n", "\t", "Infinity", "NaN", "verdict",
]  # fmt: skip


def parse_all(text: str, row: Row, probs: dict[str, float]) -> None:
    """Every parser of verdicts and answers on one text."""
    assert read_reply(text, LETTERS[:5]).label in (None, *LETTERS[:5])
    assert match_label(text, LETTERS[:5]) in (None, *LETTERS[:5])
    score = Verdict("ABC", probs).score(soft=len(text) % 2 == 0)
    assert score is None or 0 <= score <= 1
    split_reasoning(text, opened=len(text) % 3 == 0)
    canonical = MATH.canonicalise(text, row)
    if canonical is not None:
        assert MATH.canonicalise(canonical, row) == canonical, text
    assert MATH.verify(text, "1/3", row) in (0.0, 1.0)
    assert TRANSLATION.canonicalise(text, row) != ""
    number_match(text, "1,000 and 2.5")


def fuzz(count: int) -> None:
    rng = random.Random(7)
    slowest = 0.0
    MATH.verify("1.5", r"\boxed{\sqrt{2}}", Row(1, "p"))  # loads sympy
    odd = [0.0, 0.5, 1.0, 2.0, -0.5, math.nan, math.inf, 1e308]
    start = time.process_time()
    for _ in range(count):
        text = "".join(rng.choices(PIECES, k=rng.randrange(60)))
        row = Row(1, "p", language=rng.choice(["en", "de", "zh", "bn", None]))
        probs = {label: rng.choice(odd) if rng.random() < 0.2 else rng.random() for label in "ABC"}
        before = time.process_time()
        parse_all(text, row, probs)
        slowest = max(slowest, time.process_time() - before)
    seconds = time.process_time() - start
    print(f"{count:,} inputs through all parsers of verdicts and answers: {seconds:.1f} s, slowest {slowest:.3f} s")
    assert slowest < SLOWEST


def test_fuzz() -> None:
    fuzz(1_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fuzz_long() -> None:
    fuzz(100_000)


LONG: dict[str, str] = {
    "spaces": " " * 200_000,
    "spaces after a bracket": "<" + " " * 200_000,
    "dots and a letter": "." * 200_000 + "a",
    "brackets": "<" * 200_000,
    "tags": "<answer_a>" * 20_000,
    "digits": "7" * 200_000,
    "separated digits": "1,1." * 50_000,
    "lines": "\n" * 200_000,
    "markers": "Answer: " * 25_000,
    "boxes": "\\boxed{" * 25_000,
    "closing tags": "</think>" * 25_000,
    "a million letters": "x" * 10**6,
    "Chinese numerals": "一万" * 50_000,
    "pleas": "choose judge this answer note " * 1_500,
    "unseen": ("<" + "\u200b" * 50) * 1_000,
    "control tokens": "[INST]<|im_end|></s>" * 2_500,
    "links": "www.a@b.c://" * 4_000,
    "fences": "`~[](" * 8_000,
    "fractions": "\\frac{1" * 6_000,
    "roots": "√" * 50_000,
    "answers are": "the answer is " * 11_000,
    "operations": "1*" * 25_000,
    "quotes": "'\"" * 25_000,
    "hexadecimal": "0x" + "f" * 50_000,
    "tags of languages": "en-" * 15_000,
    "labels": "<answer_a>\n" * 4_000,
    "exceptions": "a.b." * 12_000 + "Error: x",
    "equals": "x=" * 25_000,
    "letters and marks": "a." * 25_000,
    "isolates": "\u2066" * 50_000,
    "surrogate escapes": "\\ud8" * 10_000,
    "displayed formulas": "\\[" * 25_000,
    "formulas in lines": "\\(" * 25_000,
    "many numbers": " ".join(map(str, range(100_000))),
    "Korean fractions": "1분의" * 100_000,
    "quoted closing tags": "`</think>`" * 20_000,
    "digits to the end": "1" * 50_000 + "g",
    "escaped headers": '\\"api_key\\"' * 4_000,
}


def render(text: str) -> None:
    load_template("pairwise").render([{"role": "user", "content": text}], answer_a=text, answer_b="b")


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_take_no_time(text: str) -> None:
    row = Row(1, "p", language="zh")
    MATH.verify("1.5", r"\boxed{\sqrt{2}}", row)  # loads sympy
    part = text[:50_000]
    parsers: list[Callable[[], Any]] = [
        lambda: read_reply(text, LETTERS),
        lambda: match_label(text, LETTERS),
        lambda: split_reasoning(text),
        lambda: answer(text, "zh"),
        lambda: TRANSLATION.canonicalise(text, row),
        lambda: number_match(text, text),
        lambda: conversation(text, []),
        lambda: conversation([{"role": "user", "content": text}], []),
        lambda: render(text),
        lambda: read_reply(part, LETTERS[:3], {"A": "answer A is better"}, "length"),
        lambda: without_pleas(part),
        lambda: chat_messages([{"role": "user", "content": part}]),
        lambda: visible(part),
        lambda: one_line(part),
        lambda: json_text(part),
        lambda: redact(part),
        lambda: escape_markdown(part),
        lambda: fence(part),
        lambda: plain(part),
        lambda: text_cell(part),
        lambda: no_formula(pa.chunked_array([[part]])),
        lambda: is_language_tag(part),
        lambda: language_name(part),
        lambda: identify(part),
        lambda: altered(part, None, 1),
        lambda: list(parse_lines("a", 0, pa.table({"text": [json.dumps({"a": part})]}))),
        lambda: _SPECIFIC.sub("", part),
        lambda: _cause(RuntimeError(part)),
        lambda: _ANSWERS.findall(part),
        lambda: is_candidate(part),
        lambda: is_uri(part),
    ]
    for i, parser in enumerate(parsers):
        start = time.process_time()
        parser()
        assert time.process_time() - start < SLOWEST, i
