"""What holds for any run: clusters in one split, no pair of equal texts, and counts that add up, in the card too."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.jobs.export.duplicates import normalised
from pipeline.jobs.export.splits import split_of
from tests.jobs.export import data

TEXTS = st.sampled_from(["one answer", "one  answer ", "caf\u00e9", "cafe\u0301", "another", "third text", "", None])
SCORES = st.sampled_from([None, -1.0, 0.0, 1.0, 2.5, float("nan")])


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    made = []
    for i in range(draw(st.integers(1, 12))):
        n = draw(st.integers(1, 4))
        texts, scores = (draw(st.lists(kind, min_size=n, max_size=n)) for kind in (TEXTS, SCORES))
        row = data.row(i, texts, scores, draw(st.one_of(st.none(), st.integers(0, n - 1))))
        row["cluster_id"] = f"c{draw(st.integers(0, 4))}"
        row["messages"][0]["content"] = f"question {draw(st.integers(0, 3))} of {row['cluster_id']}"
        row["language"] = draw(st.sampled_from(["en", "de", None]))
        if draw(st.booleans()):
            row["candidates"][0]["finish_reason"] = "length"
        made.append(row)
    return made


@settings(max_examples=40)
@given(
    made=rows(),
    keys=st.fixed_dictionaries(
        {
            "format": st.sampled_from(["sft", "dpo", "reward", "kto"]),
            "rejected": st.sampled_from(["lowest", "sample", "random"]),
            "min_margin": st.sampled_from([None, 0.0, 1.0]),
            "truncated": st.booleans(),
            "deduplicate": st.booleans(),
            "seed": st.integers(0, 99),
            "rows_per_shard": st.integers(1, 5),
        }
    ),
)
def test_any_run(made: list[dict[str, Any]], keys: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        run = data.write(folder, made)
        shares = {"train": 0.5, "dev": 0.25, "test": 0.25}
        try:
            done = data.export(run, splits=shares, language=False, **keys)
        except InputError as error:
            assert f"{len(made)} rows, all left out" in str(error)
            return
        counts = done.counts
        exported, dropped = sum(counts.exported.values()), sum(counts.dropped.values())
        assert counts.rows == len(made) == exported + dropped
        clusters = defaultdict(set)
        by_split = {split: data.records(done, split) for split in shares}
        for split, records in by_split.items():
            for record in records:
                turns = record.get("prompt") or record["messages"]
                clusters[turns[0]["content"].rpartition(" ")[2]].add(split)
        assert all(len(splits) == 1 for splits in clusters.values())
        flat = [r for records in by_split.values() for r in records]
        assert len(flat) == sum(counts.records.values())
        assert {s: len(r) for s, r in by_split.items() if r} == counts.per_split(counts.records)
        if keys["format"] in ("dpo", "reward"):
            assert exported == len(flat)
            for r in flat:
                assert normalised(r["chosen"][0]["content"]) != normalised(r["rejected"][0]["content"])
                if keys["min_margin"] is not None and None not in (r["score_chosen"], r["score_rejected"]):
                    assert r["score_chosen"] > r["score_rejected"]
        if keys["format"] == "kto":
            assert exported == sum(r["label"] for r in flat)
        if keys["deduplicate"] and keys["format"] == "sft":
            seen = [tuple(normalised(m["content"]) for m in r["messages"]) for r in flat]
            assert len(seen) == len(set(seen))
        _check_card((done.folder / "README.md").read_text("utf-8"), made, exported, dropped, len(flat))
    finally:
        shutil.rmtree(folder)


def _check_card(card: str, made: list[Any], exported: int, dropped: int, records: int) -> None:
    """The card's sums, and that its lines add up to them."""
    rows = _cells(card, "## Rows", lambda c: [int(cell) for cell in [c[1], *c[3:]]])
    left_out = _cells(card, "## Left out", lambda c: [int(cell) for cell in [c[1], *c[4:]]])
    for table in (rows, left_out):
        assert table[-1] == [sum(column) for column in zip(*table[:-1], strict=True)]
    total, asked, *splits = rows[-1]
    more = splits.pop() if records != exported else exported
    assert (asked, total, sum(splits), more) == (len(made), exported, exported, records)
    assert left_out[-1][0] == dropped


def _cells(card: str, heading: str, numbers: Callable[[list[str]], list[int]]) -> list[list[int]]:
    table = card.split(heading + "\n\n")[1].split("\n\n")[0]
    return [numbers([cell.strip() for cell in line.strip("|").split("|")]) for line in table.splitlines()[2:]]


@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_shares_are_kept(seed: int, share: float) -> None:
    shares = {"train": share, "test": 1 - share}
    n = sum(split_of(f"cluster {i}", shares, seed) == "train" for i in range(2000))
    assert abs(n / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5 + 1e-3
