"""What data and models say cannot act in a terminal, forge a line, mirror a number or become a formula."""

from __future__ import annotations

import ast
import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.folder import RunFolder
from pipeline.core.safety import Line, indented, isolated, json_text, line, one_line, say, visible
from pipeline.jobs.errors import run as print_errors
from pipeline.jobs.job import console
from pipeline.jobs.show import describe
from pipeline.prompts.report import ReadReport
from pipeline.stats.results import store_table
from pipeline.stats.tables import csv_text
from tests.conftest import run_with_prompts

ROOT = Path(__file__).parents[2]
ACTS = "\x1b[2J\x9b2J\x07\x7f\u202e\u2066\u200f\u2028\ufeff\u034f\u115f\u3164\uffa0\U000e0041\ud800"
HEBREW = "שלום"


def raw(text: str) -> set[str]:
    """What of :data:`ACTS` is in a text as it is."""
    return {c for c in ACTS if c in text and not (c.isascii() and c.isprintable())}


def test_everything_that_acts_or_hides_becomes_a_sign() -> None:
    assert not raw(visible(ACTS)) and "␛" in visible(ACTS) and "U+202E" in visible(ACTS) and "U+D800" in visible(ACTS)
    visible(ACTS).encode()
    assert one_line("p1\nlemonpress run: done\r\n\tx") == "p1␊lemonpress run: done␊␉x"
    assert visible("नमस्ते\u200d 👩\u200d🚀\tمی\u200cروم\n") == "नमस्ते\u200d 👩\u200d🚀\tمی\u200cروم\n"  # as people write


def test_no_module_prints_but_through_the_one_place() -> None:
    """``say`` makes every line safe; the three that print otherwise print what is safe already."""
    known = {"core/safety.py", "jobs/show.py", "jobs/errors.py", "engines/comet_server.py"}
    found = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.add(str(path.relative_to(ROOT / "pipeline")))
    assert found <= known, found - known


def test_a_printed_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"prompt p1\nlemonpress run: done {ACTS}", line("prompt {}: {}", "a\nb\u2066", 5))
    said = capsys.readouterr().out
    assert said.count("\n") == 2 and not raw(said)


def test_further_lines_of_a_message_stand_behind_a_bar() -> None:
    assert indented("lemonpress run: bad id 'x\nlemonpress run: done'").splitlines()[1].startswith("    | ")


def test_numbers_beside_names_from_right_to_left_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert isolated("abc 5") == "abc 5" and isolated(HEBREW) == f"\u2068{HEBREW}\u2069"
    told = line("{} against {}: {}", HEBREW + "\u2069", "b", 12)
    assert told == f"\u2068{HEBREW}⟦U+2069⟧\u2069 against b: 12"
    assert line("{}; {}", told, "x").startswith(told) and isinstance(told, Line)
    report = ReadReport(3, 3, {"open": {HEBREW: 1, "en\n9": 2}})
    assert f"languages: en␊9 2, \u2068{HEBREW}\u2069 1" in report.lines()
    from rich.table import Table

    table = Table("system", "prompts")
    table.add_row(HEBREW, "12")
    console(table)
    assert f"\u2068{HEBREW}\u2069" in capsys.readouterr().out


def test_show_prints_no_line_that_an_id_or_a_text_made_up(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path / "run", 1, text=f"q{{i}}\nprompt p9 (row 9){ACTS[:-1]}")
    told = list(describe(run, "p0"))
    assert not raw("".join(told)) and not any(x.startswith("prompt p9") for x in told)


def test_json_on_a_terminal_is_plain_text_and_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"grüß": ACTS, "نص": [1, None]}
    text = json_text(value)
    assert not raw(text) and "grüß" in text and "نص" in text and json.loads(text) == value
    run = run_with_prompts(tmp_path / "run", 1)
    run.write_json(value, "x.json")
    assert not raw(str(run.read_text("x.json"))) and run.read_json("x.json") == value
    print_errors(str(tmp_path / "run"), as_json=True)
    assert json.loads(capsys.readouterr().out)["failed"] == 0


def test_ids_that_differ_in_what_nobody_sees_look_different() -> None:
    for unseen in ("\u034f", "\u115f", "\u1160", "\u200b", "\u2061", "\u3164", "\uffa0", "\ufff0", "\U000e0fff"):
        assert one_line(f"p{unseen}1") == f"p⟦U+{ord(unseen):04X}⟧1"


@pytest.mark.parametrize(
    "before", ["\u00a0", "\u3000", "\u2003", "\ufeff", "\u200b", "\u2060", "\x85", "\u3164", "\u034f"]
)
def test_a_formula_behind_spaces_of_any_kind_is_a_text_in_csv(before: str) -> None:
    text = f"{before}=1+1"
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    for kind in kinds:
        (row,) = csv.DictReader(io.StringIO(csv_text(pa.table({"a": pa.array([text]).cast(kind)}))))
        assert row["a"] == f"'{text}", kind


def test_csv_cells_are_no_formulas_and_numbers_stay_numbers(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1-cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "-5", "plain", None]
    numbers = [-0.5 * i for i in range(len(texts))]
    run = RunFolder(str(tmp_path))
    store_table(run, "t", pa.table({"system": texts, "ci_low": numbers}))
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["system"] for r in rows] == [f"'{t}" for t in texts[:8]] + ["-5", "plain", ""]
    assert [float(r["ci_low"]) for r in rows] == numbers
    assert run.read_table("t.parquet")["system"].to_pylist() == texts
