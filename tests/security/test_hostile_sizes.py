"""Files that are small and cost much: bounded time and memory, and one line that says why."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections import deque
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.tables import MOST_COLUMNS, check_schema
from pipeline.prompts.columns import conversation
from pipeline.prompts.formats import LONGEST_LINE, MOST_TIMES, is_deep, text_lines
from pipeline.prompts.sources import FileSource, read_prompts
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def check_text(path: Path, where: str) -> None:
    deque(text_lines(path, where), 0)


def refused(path: Path, run: RunFolder) -> str:
    with pytest.raises(InputError) as caught:
        read_prompts(FileSource(path=str(path)), run)
    assert path.name in str(caught.value)
    return str(caught.value)


def packed(path: Path, *parts: tuple[bytes, int]) -> Path:
    with gzip.open(path, "wb") as stream:
        for part, times in parts:
            for _ in range(times):
                stream.write(part)
    return path


def test_a_gzip_file_that_grows_a_thousandfold(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured: 1 GiB of text would be in it."""
    line = b'{"prompt": "' + b"q" * (2**20 - 20) + b'"}\n'
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(line) * 1024)  # members, one after the other
    assert path.stat().st_size < 2**21
    code = (
        "import re\nfrom pathlib import Path\nfrom pipeline.cli import main\n"
        f"code = main(['generate', 'dummy', 'prompts.kind=file', 'prompts.path={path}', 'out={tmp_path / 'run'}'])\n"
        # not getrusage: a child begins with its parent's peak
        "print(code, int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    code_, mebibytes = map(int, done.stdout.split()[-2:])
    assert code_ == 2 and mebibytes < 400
    assert f"grows more than {MOST_TIMES} times" in done.stderr and "Traceback" not in done.stderr


def test_a_line_without_an_end(tmp_path: Path) -> None:
    path = packed(tmp_path / "p.jsonl.gz", (b'{"prompt": "', 1), (b"q" * 2**20, LONGEST_LINE // 2**20 + 1))
    with pytest.raises(InputError, match="longer than 64 MiB"):
        check_text(path, "p")
    plain = tmp_path / "p.jsonl"
    with plain.open("wb") as stream:
        stream.truncate(LONGEST_LINE + 2)
    with pytest.raises(InputError, match="longer than 64 MiB"):
        check_text(plain, "p")


def test_sound_files_pass(tmp_path: Path) -> None:
    words = json.dumps({"prompt": "word " * 50}).encode() + b"\n"
    check_text(packed(tmp_path / "a.jsonl.gz", (words, 5000)), "a")
    (tmp_path / "b.csv").write_bytes(b"prompt\nBZh is a word\n")
    check_text(tmp_path / "b.csv", "b")


@pytest.mark.parametrize("start", [b"\xfd7zXZ\0\0\0", b"\x28\xb5\x2f\xfd\0", b"PK\x03\x04aa", b"BZh91AY&SYxx"])
def test_a_file_that_is_packed_in_secret(start: bytes, tmp_path: Path, run: RunFolder) -> None:
    """The library would unpack it by what it is, whatever it is called."""
    (tmp_path / "p.jsonl").write_bytes(start)
    assert "not by gzip" in refused(tmp_path / "p.jsonl", run)


@pytest.mark.parametrize(
    "value", ["[" * 700 + "]" * 700, '{"a":' * 700 + "1" + "}" * 700, '[{"a":' * 350 + "[]" + "}]" * 350]
)
@pytest.mark.parametrize("key", ["x", "prompt"])
def test_json_in_json_in_json(key: str, value: str, tmp_path: Path, run: RunFolder) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "q"}\n{"other": "q", "' + key + f'": {value}}}\n')
    assert "line 2: its JSON is nested more than 64 levels deep" in refused(tmp_path / "p.jsonl", run)


def test_what_is_deep() -> None:
    for depth, deep in ((63, False), (64, False), (66, True), (900, True)):
        text = "[" * depth + "]" * depth
        assert is_deep(text, json.loads(text)) == deep
    wide = json.dumps([[] for _ in range(10_000)])
    assert not is_deep(wide, json.loads(wide))
    problems: list[str] = []
    assert conversation("[" * 700 + "]" * 700, problems) == [] and problems


def test_tables_of_thousands_of_columns(tmp_path: Path, run: RunFolder) -> None:
    names = [f"c{i}" for i in range(MOST_COLUMNS + 1)]
    pq.write_table(pa.table({"prompt": ["q"], **{n: [1] for n in names}}), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text(f"prompt,{','.join(names)}\nq,{',1' * len(names)}\n")
    lines = [json.dumps({"prompt": "q", **dict.fromkeys(names[i : i + 100], 1)}) for i in range(0, len(names), 100)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    for name in ("p.parquet", "p.csv", "p.jsonl"):
        assert "2,00" in refused(tmp_path / name, run)


def test_types_of_many_fields_and_levels() -> None:
    wide = pa.struct([(f"f{i}", pa.int8()) for i in range(30_000)])
    deep: pa.DataType = pa.int8()
    for _ in range(100):
        deep = pa.list_(deep)
    for type_ in (wide, deep):
        with pytest.raises(InputError, match="more than"):
            check_schema(pa.schema([("x", type_)]), "t")


@pytest.mark.parametrize("what", ["system", "opponent", "language"])
def test_ten_thousand_systems_opponents_or_languages(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = 10_000
    games = {"system": ["s"] * n, "opponent": ["o"] * n, "language": ["en"] * n, "order": ["ab"] * n}
    games |= {what: [f"{what}{i}" for i in range(n)]}
    pq.write_table(pa.table({"prompt_id": map(str, range(n)), "score": [1.0] * n, **games}), tmp_path / "g.parquet")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert main(["winrate", f"games={tmp_path / 'g.parquet'}", f"out={tmp_path / 'o'}"]) == 2
    said = capsys.readouterr().err
    assert "10,000" in said and len(said.strip().splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - used < 10


def test_games_in_json_of_many_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.jsonl").write_text('{"prompt_id": ' + "[" * 700 + "]" * 700 + "}\n")
    assert main(["winrate", f"games={tmp_path / 'g.jsonl'}", f"out={tmp_path / 'o'}"]) == 2
    assert "levels" in capsys.readouterr().err
