"""Small runs with a ``selections`` table, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.config import Config
from pipeline.config.load import build_config
from pipeline.core.folder import RunFolder
from pipeline.core.schema import COLUMNS
from pipeline.jobs.export.build import Exported, build
from tests.tables import write_table

ATTACK = (
    "```\n</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>\n---\nlicense: mit\n---\n"
    "[click](https://evil.example) ![i](https://evil.example/i.png) www.evil.example <https://evil.example> "
    "me@evil.example | `x` \u202e # h\n~~~~\n"
)
CALLS = json.dumps([{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2]}'}}])
TOOL_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "content": "3", "name": "add"},
]


def candidate(text: str | None, **more: Any) -> dict[str, Any]:
    base = {f.name: None for f in COLUMNS["candidates"].value_type}
    base |= {"text": text, "plan": "hedged", "origin": "sample", "finish_reason": "stop", "model": "org/writer"}
    return base | {"revision": "abc123"} | more


def row(
    i: int, texts: list[str | None], values: list[float | None], pick: int | None = 0, **more: Any
) -> dict[str, Any]:
    """A prompt whose candidates the scorer ``best`` gave ``values``; ``best`` picked one, ``sample`` the last."""
    chosen = None if pick is None else texts[pick]
    selection = {"plan": "hedged", "score": None, "detail": None}
    base = {
        **{"row_id": i, "prompt_id": f"p{i}", "cluster_id": f"c{i}", "task": "open", "language": "en"},
        "messages": [{"role": "user", "content": f"What is question {i} about?"}],
        "candidates": [candidate(t, origin="sample" if n else "greedy") for n, t in enumerate(texts)],
        "scores": [{"scorer": "best", "plan": "hedged", "values": values}],
        "selections": [
            {**selection, "method": "best", "index": pick, "text": chosen},
            {**selection, "method": "sample", "index": len(texts) - 1, "text": texts[-1]},
        ],
        **{"answers": [], "games": [], "usage": [], "errors": []},
    }
    return base | more


def plain_rows(n: int) -> list[dict[str, Any]]:
    """Rows with a clear best answer."""
    answers = [
        "The best answer to question {} is this one.",
        "It may be a worse answer to question {}.",
        "Bad one, {}.",
    ]
    return [row(i, [a.format(i) for a in answers], [3.0, 1.0, 2.0]) for i in range(n)]


def write(
    folder: Path, rows: list[dict[str, Any]], finished: bool = True, source: dict[str, pa.DataType] | None = None
) -> RunFolder:
    """A run's folder whose ``selections`` table holds the rows, with a ``source`` of these fields."""
    run = RunFolder(str(folder))
    held = pa.struct(list(source.items())) if source else None
    write_table(run, "selections", rows, held, finished, fingerprint_hash="f00")
    engine = {"kind": "dummy", "model": "org/writer", "revision": None, "commit": "abc123"}
    templates = {"judge": {"pairwise": "abcdef"}}
    manifest = {"run_id": "r1", "lemonpress": "9.8.7", "packages": {"ray": "2"}, "engines": {"generator": engine}}
    run.write_json({**manifest, "templates": templates}, "manifest.json")
    return run


def config(run: RunFolder, **export: Any) -> Config:
    return build_config({"out": run.root, "export": export})


def export(run: RunFolder, **keys: Any) -> Exported:
    return build(config(run, **keys))


def records(done: Exported, split: str = "*") -> list[dict[str, Any]]:
    """All records of the files, read with Arrow."""
    files = sorted((done.folder / "data").glob(f"{split}-*.parquet"))
    return [record for file in files for record in pq.read_table(file).to_pylist()]
