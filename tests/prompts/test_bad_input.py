"""Every kind of bad input: a clear message, no other row lost, and the original content of a bad row kept."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.prompts.sources import Columns, FileSource, Given, read_prompts

pytestmark = pytest.mark.usefixtures("own_datasets_cache")

GOOD = {"prompt": "good"}
ASKED = {"role": "user", "content": "good"}
HALF = "\\ud83d"  # half of an emoji, as a JSON escape


def lines(*items: Any) -> bytes:
    """JSON Lines; strings are written as they are."""
    return "".join((i if isinstance(i, str) else json.dumps(i)) + "\n" for i in items).encode("utf-8")


def turns(*items: Any) -> bytes:
    """JSON Lines of conversations, and a good one behind them."""
    return lines(*({"messages": item} for item in items), {"messages": [ASKED]})


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@dataclass
class Kind:
    """One kind of bad input.

    Attributes:
        name: what is wrong.
        content: of the file ``file``; ``others``: further files beside it, and then the folder is read.
        refused: regular expression of the message with which the whole source is refused; else
        rows: per row a regular expression of its error, ``None`` for a good one.
        kept: what the bad rows' original content must hold, one after the other.
        says: regular expression that the printed report holds.
        texts: what is asked in the good rows, where that is not "good".
    """

    name: str
    content: bytes
    file: str = "a.jsonl"
    refused: str | None = None
    rows: list[str | None] = field(default_factory=lambda: [None])
    kept: list[str] = field(default_factory=list)
    says: str = ""
    texts: list[str] | None = None
    others: dict[str, bytes] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def bad(name: str, item: Any, message: str, kept: str, **more: Any) -> Kind:
    """A bad line between two good ones."""
    return Kind(name, lines(GOOD, item, GOOD), rows=[None, message, None], kept=[kept], **more)


DEEP = "[" * 100_000 + "]" * 100_000
TABLE = pa.table({"prompt": ["good"] * 50})

KINDS = [
    # prompts that cannot be asked
    bad("empty prompt", {"prompt": ""}, "the prompt is empty", '{"prompt": ""}'),
    bad("white space only", {"prompt": " \n\t"}, "the prompt is empty", r'{"prompt": " \n\t"}'),
    bad("null prompt", {"prompt": None}, "the prompt is null", '{"prompt": null}'),
    bad("missing prompt", {"x": 7}, "the prompt is null", '{"prompt": null}'),
    bad("number as prompt", {"prompt": 3.5}, "the prompt is float, not text", "3.5"),
    bad("truth value as prompt", {"prompt": True}, "the prompt is bool, not text", "true"),
    bad("list as prompt", {"prompt": ["a", 1]}, "the prompt is list, not text", '["a", 1]'),
    bad("object as prompt", {"prompt": {"a": "b"}}, "the prompt is dict, not text", '{"a": "b"}'),
    bad("lone surrogate", f'{{"prompt": "a{HALF}b"}}', r"surrogates were replaced by U\+FFFD", HALF),
    bad("lone surrogate elsewhere", f'{{"prompt": "a", "x": "{HALF}"}}', "surrogates", HALF),
    bad("NUL", '{"prompt": "a\\u0000b"}', r"cannot be stored.* U\+FFFD in messages\[0\]\.content", '"a\\u0000b"'),
    bad("NUL in the id", '{"prompt": "a", "prompt_id": "i\\u0000"}', r"U\+FFFD in prompt_id", '"i\\u0000"'),
    Kind(
        "control characters are text",
        lines({"prompt": "a\x1b[31m\x07\u202e"}, {"prompt": "b\u2028c\u0085d"}),
        rows=[None, None],
        texts=["a\x1b[31m\x07\u202e", "b\u2028c\u0085d"],
    ),
    Kind("a million characters", lines({"prompt": "x" * 10**6}, GOOD), rows=[None, None], texts=["x" * 10**6, "good"]),
    # conversations
    Kind("no turns", turns([]), rows=["there is no user turn", None], kept=["[]"]),
    Kind("null messages", turns(None), rows=["messages is null", None], kept=["null"]),
    Kind("one turn, no list", turns(ASKED), rows=["neither a list of turns nor", None], kept=['"good"']),
    Kind("number as messages", turns(5), rows=["neither a list of turns nor", None], kept=["5"]),
    Kind("messages of broken JSON", turns('[{"role":'), rows=["nor its JSON text", None], kept=['[{\\"role\\":']),
    Kind("messages of endless JSON", turns("[" * 50_000), rows=["nor its JSON text", None], kept=["[[[["]),
    Kind("null turn", turns([None, ASKED]), rows=[r"messages\[0\] is no object with a role", None], kept=["[null,"]),
    Kind("null role", turns([{"role": None, "content": "x"}]), rows=["no object with a role", None], kept=['"x"']),
    Kind("null content", turns([{"role": "user", "content": None}]), rows=["content is null", None], kept=["null"]),
    Kind(
        "no user turn",
        turns([{"role": "assistant", "content": "hello"}]),
        rows=["there is no user turn", None],
        kept=["hello"],
    ),
    Kind(
        "unknown role",
        turns([{"role": "human", "content": "hi"}], [ASKED, {"role": "wizard", "content": "x"}]),
        rows=[r"messages\[0\]\.role is 'human', not one of system, .*user", r"messages\[1\]\.role is 'wizard'", None],
        kept=["human", "wizard"],
    ),
    Kind(
        "content as parts",
        turns([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]),
        rows=[None, None],
        texts=["one\ntwo", "good"],
    ),
    Kind(
        "a part that is no text",
        turns([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]),
        rows=[r"messages\[0\]\.content\[0\] is not text \(image_url\)", None],
        kept=["image_url"],
    ),
    Kind(
        "tool calls of broken JSON",
        turns([{**ASKED, "tool_calls": "{"}]),
        rows=[r"messages\[0\]\.tool_calls is not valid JSON", None],
        kept=['"{"'],
    ),
    # other columns
    Kind(
        "unknown languages",
        lines({**GOOD, "language": "klingonisch"}, {**GOOD, "language": 5}, {**GOOD, "language": " de "}),
        rows=[None, None, None],
        says=r"unknown languages: '5' \(1\), 'klingonisch' \(1\): .* kept",
    ),
    Kind(
        "references that are no text",
        lines(*({**GOOD, "reference": value} for value in (18.0, True, ["a"], {"a": 1}, float("nan")))),
        rows=[None] * 5,
    ),
    Kind(
        "mixed types, huge and infinite numbers in other columns",
        lines(
            '{"prompt": "good", "x": ' + "9" * 400 + ', "y": NaN}', '{"prompt": "good", "x": [{"k": null}], "y": 1e400}'
        ),
        rows=[None, None],
    ),
    Kind(
        "values nested more deeply than Parquet can store",
        lines('{"prompt": "good", "x": ' + "[" * 60 + "1" + "]" * 60 + "}"),
    ),
    Kind(
        "repeated ids",
        lines(*({**GOOD, "prompt_id": name} for name in "aba")),
        refused=r"prompts\.columns\.id: .*1 repeat: rows 0 and 2 \(first: 'a'",
    ),
    Kind("null and empty ids", lines({**GOOD, "prompt_id": None}, {**GOOD, "prompt_id": ""}), rows=[None, None]),
    Kind("no prompt column", lines({"question": "q"}), refused=r"set prompts\.columns\.prompt.*question"),
    # candidates that come with the prompts
    Kind(
        "given answers that are none",
        lines(
            {**GOOD, "answers": []},
            {**GOOD, "answers": None},
            {
                **GOOD,
                "answers": [None, 5, {"text": "a", "num_tokens": float("inf")}, {"text": "b", "logprob": 10**400}],
            },
            {**GOOD, "answers": "{"},
        ),
        rows=[None] * 4,
        says="given answers: 5 in the column cannot be used",
        options={"given": Given(column="answers")},
    ),
    # files
    Kind("empty file", b"", refused="no prompt.*empty"),
    Kind("byte order mark only", b"\xef\xbb\xbf", refused="no prompt.*empty"),
    Kind("blank lines only", b"\n \n", refused="no prompt.*empty"),
    Kind("header only", b"prompt,x\n", "a.csv", refused="no prompt.*empty"),
    Kind("Parquet without rows", parquet(TABLE.slice(0, 0)), "a.parquet", refused="no prompt.*empty"),
    Kind("Windows line ends", lines(GOOD, GOOD).replace(b"\n", b"\r\n"), rows=[None, None]),
    Kind("joined files with byte order marks", (b"\xef\xbb\xbf" + lines(GOOD)) * 2, rows=[None, None]),
    Kind("no JSON", lines(GOOD, "prompt: good"), refused=r"a\.jsonl, line 2: not valid JSON"),
    Kind("line cut off", lines(GOOD, GOOD)[:-6], refused=r"a\.jsonl, line 2: not valid JSON"),
    Kind("no object", lines(GOOD, "", [1]), refused=r"a\.jsonl, line 3: must be a JSON object, not list"),
    Kind("endless JSON", lines(GOOD, f'{{"x": {DEEP}}}'), refused=r"a\.jsonl, line 2: not valid JSON: .*recursion"),
    Kind("pretty JSON", json.dumps([GOOD], indent=1).encode(), "a.json", refused=r"line 1.*one JSON document instead"),
    Kind("Latin-1", lines(GOOD) + '{"prompt": "grün"}\n'.encode("latin-1"), refused=r"line 2: .*save it as UTF-8"),
    Kind("Latin-1 CSV", "prompt\ngrün\n".encode("latin-1"), "a.csv", refused=r"a\.csv, line 2: .*save it as UTF-8"),
    Kind("UTF-16", lines(GOOD).decode().encode("utf-16"), refused="it is UTF-16: save it as UTF-8"),
    Kind("cut Parquet", parquet(TABLE)[:-40], "a.parquet", refused=r"a\.parquet: cannot be read"),
    Kind("JSON called Parquet", lines(GOOD), "a.parquet", refused=r"a\.parquet: cannot be read"),
    Kind("Parquet called JSON", parquet(TABLE), refused="it is a Parquet file"),
    Kind(
        "repeated Parquet columns",
        parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"])),
        "a.parquet",
        refused=r"a\.parquet: .*prompt",
    ),
    Kind(
        "bytes as prompt",
        parquet(pa.table({"prompt": [b"\xff", b"a"]})),
        "a.parquet",
        rows=["the prompt is bytes, not text"] * 2,
        kept=["xff", "a"],
    ),
    Kind(
        "null column",
        parquet(pa.table({"prompt": pa.nulls(1), "x": [1]})),
        "a.parquet",
        rows=["the prompt is null"],
        kept=["null"],
    ),
    Kind("gzip without its ending", gzip.compress(lines(GOOD))),
    Kind("gzip's ending without gzip", lines(GOOD), "a.jsonl.gz", refused=r"a\.jsonl\.gz: .*Not a gzipped file"),
    Kind("cut gzip", gzip.compress(lines(GOOD))[:-9], "a.jsonl.gz", refused="ended before the end-of-stream marker"),
    Kind("gzipped Parquet", gzip.compress(parquet(TABLE)), "a.parquet", refused="compressed by gzip: unpack it"),
    Kind("short CSV line", b"prompt,x\ngood,1\ngood\n", "a.csv", refused=r"line 3: 1 fields, but there are 2 columns"),
    Kind("long CSV line", b"prompt,x\ngood,1,2\n", "a.csv", refused=r"line 2: 3 fields, but there are 2 columns"),
    Kind("quote not closed", b'prompt,x\n"good,1\ng,2\n', "a.csv", refused=r"line 2: .*is a quote not closed"),
    Kind("repeated CSV columns", b"prompt,x,prompt\na,1,b\n", "a.csv", refused="one column is called 'prompt'"),
    Kind("NUL in CSV", b"prompt\ng\x00\ngood\n", "a.csv", rows=[r"U\+FFFD", None], kept=["u0000"]),
    Kind("a tab too many", b"prompt\tx\ngood\t1\t2\n", "a.tsv", refused=r"a\.tsv, line 2: 3 fields"),
    Kind(
        "folder with foreign files",
        lines(GOOD),
        others={"notes.txt": b"x", ".hidden.jsonl": b"x", "_SUCCESS": b"", "b.csv": b"prompt\ngood\n", "c.jsonl": b""},
        rows=[None, None],
    ),
    Kind("folder with a damaged file", lines(GOOD), others={"b.parquet": b"PAR1"}, refused=r"b\.parquet: cannot"),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_input(kind: Kind, tmp_path: Path) -> None:
    for name, content in {kind.file: kind.content, **kind.others}.items():
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    run = RunFolder(str(tmp_path / "run"))
    source = FileSource(path=str(folder if kind.others else folder / kind.file), **kind.options)
    if kind.refused:
        with pytest.raises(LemonpressError, match=kind.refused) as refusal:
            read_prompts(source, run)
        assert refusal.value.exit_code == 2
        assert run.marker("prompts") is None
        return
    report = read_prompts(source, run)
    rows = run.table("prompts", ["row_id", "messages", "source", "errors"]).to_pylist()
    assert report.rows == len(rows) == len(kind.rows)
    assert report.bad_rows == sum(message is not None for message in kind.rows)
    assert re.search(kind.says, "\n".join(report.lines()))
    asked = iter(kind.texts or ["good"] * len(rows))
    kept = iter(kind.kept)
    for row, message in zip(rows, kind.rows, strict=True):
        if message is None:
            assert row["errors"] == []
            assert row["messages"][-1]["content"] == next(asked)
            assert row["source"].get("_original") is None
        else:
            [error] = row["errors"]
            assert (error["job"], error["kind"]) == ("prompts", "BadPrompt")
            assert re.search(message, error["message"])
            assert next(kept) in row["source"]["_original"]


def test_there_are_thirty_kinds_at_least() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 30


def test_original_content_does_not_hide_a_column_of_that_name(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"question": 5, "_original": "mine"}))
    read_prompts(FileSource(path=str(path), columns=Columns(prompt="question")), run)
    [row] = run.table("prompts", ["source"]).to_pylist()
    assert row["source"] == {"_original": "mine", "__original": '{"question": 5}'}
