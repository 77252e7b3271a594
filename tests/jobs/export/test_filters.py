"""Which rows are left out, which names are refused, and what stays on the disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError, InputError, UnfinishedTableError
from tests.jobs.export import data

GERMAN = "Das ist ganz sicher eine Antwort, die in deutscher Sprache geschrieben wurde."


def drop(**changes: Any) -> dict[str, Any]:
    return data.row(1, ["First answer here.", "Second answer here."], [1.0, 0.5]) | changes


def cut(index: int) -> dict[str, Any]:
    row = drop()
    row["candidates"][index]["finish_reason"] = "length"
    return row


FAILED = [{"job": "prompts", "stage": "read", "kind": "BadPrompt", "message": "x"}]
CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (cut(0), {}, "answer cut at the token limit"),
    (cut(1), {"format": "dpo"}, "no other answer to reject"),
    (data.row(1, [GERMAN, "b"], [1.0, 0.5]), {}, "answer in another language"),
    (drop(), {"min_score": 2.0}, "score too small"),
    (data.row(1, ["a b", "c d"], [None, 1.0]), {"min_score": 2.0}, "no score"),
    (data.row(1, ["a b", "c d"], [None, 1.0]), {"format": "reward"}, "no score"),
    (data.row(1, ["a b", None], [1.0, None], pick=1), {}, "no answer selected"),
    (data.row(1, ["  ", "b"], [1.0, 0.0]), {}, "no answer selected"),
    (data.row(1, ["a b", "b c"], [1.0, 0.0], pick=None), {}, "no answer selected"),
    (drop(), {"format": "dpo", "min_margin": 0.6}, "margin too small"),
    (data.row(1, ["a b", "c d"], [1.0, 1.0]), {"format": "dpo"}, "margin too small"),
    (data.row(1, ["café now", "cafe\u0301  now"], [1.0, 0.0]), {"format": "dpo"}, "no other answer to reject"),
    (drop(errors=FAILED), {}, "prompt could not be read"),
    (drop(messages=[{"role": "assistant", "content": "x"}]), {}, "prompt ends with an assistant turn"),
]


@pytest.mark.parametrize(("row", "keys", "reason"), CASES)
def test_each_reason_is_counted(tmp_path: Path, row: dict[str, Any], keys: dict[str, Any], reason: str) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    done = data.export(data.write(tmp_path, [good, row]), **keys)
    assert (done.counts.rows, done.counts.dropped) == (2, {reason: 1})
    assert sum(done.counts.exported.values()) == 1 and reason in (done.folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        (cut(0), {"truncated": False}),
        (data.row(1, [GERMAN, "b"], [1.0, 0.5]), {"language": False}),
        (data.row(1, ["a b", "c d"], [1.0, 1.0]), {"format": "dpo", "min_margin": None}),
        (data.row(1, ["a b", "c d"], [1.0, 1.0]), {"format": "kto"}),  # the good answer stands alone
    ],
)
def test_every_filter_can_be_switched_off(tmp_path: Path, row: dict[str, Any], keys: dict[str, Any]) -> None:
    assert not data.export(data.write(tmp_path, [row]), **keys).counts.dropped


def test_duplicates_are_told_by_prompt_and_answer(tmp_path: Path) -> None:
    rows = [data.row(i, ["Caf\u00e9 it is.", "No."], [1.0, 0.0]) for i in range(4)]
    for row, content in zip(rows, ("Where  to?", "Where to? ", "Where now?", "Where to?"), strict=True):
        row["messages"] = [{"role": "user", "content": content}]
    rows[1]["selections"][0]["text"] = rows[1]["candidates"][0]["text"] = "Cafe\u0301 it  is."
    rows[3]["selections"][0] |= {"text": "No.", "index": 1}
    run = data.write(tmp_path, rows)
    assert data.export(run).counts.dropped == {"duplicate": 1}
    assert not data.export(run, deduplicate=False).counts.dropped


def test_right_answers_alone_can_be_exported(tmp_path: Path) -> None:
    rows = data.plain_rows(4)
    for i, row in enumerate(rows):
        row["scores"].append({"scorer": "metric:accuracy", "plan": "hedged", "values": [float(i == 2), 0.0, 1.0]})
    done = data.export(data.write(tmp_path, rows), scorer="metric:accuracy", min_score=1.0)
    assert done.counts.dropped == {"score too small": 3}
    (record,) = data.records(done)
    assert record["messages"][-1]["content"] == "The best answer to question 2 is this one."


def test_rejected_may_be_the_sample_or_random(tmp_path: Path) -> None:
    run = data.write(tmp_path, data.plain_rows(40))
    sample = data.records(data.export(run, format="dpo", rejected="sample"))
    assert all(r["rejected"][0]["content"].startswith("Bad one") and r["score_rejected"] == 2.0 for r in sample)
    texts = {r["rejected"][0]["content"][:3] for r in data.records(data.export(run, format="dpo", rejected="random"))}
    assert texts == {"Bad", "It "}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "ppo"}, "export.format: there is no 'ppo'"),
        ({"rejected": "best"}, "export.rejected"),
        ({"reasoning": "yes"}, "export.reasoning"),
        ({"min_margin": -1.0}, "export.min_margin"),
        ({"rows_per_shard": 0}, "export.rows_per_shard"),
        ({"splits": {"train": 0.5}}, "export.splits: the shares must add up to 1"),
        ({"splits": {"../x": 1.0}}, "export.splits"),
        ({"splits": {"train": 1.5}}, "export.splits.train"),
        ({"push": "name"}, "export.push"),
        ({"fromat": "sft"}, "unknown config key 'export.fromat'; did you mean 'format'"),
        ({"plan": "cool"}, "export.plan: the run has no selections of 'cool'; valid: hedged"),
        ({"method": "bset"}, "export.method: hedged has no 'bset'; it has: best, sample"),
        ({"scorer": "mbr"}, "export.scorer: hedged has no scores of 'mbr'; it has: best"),
        ({"method": "sample", "format": "dpo"}, "export.scorer: sample stores no scores of its own"),
        ({"method": "sample", "format": "dpo", "rejected": "sample"}, "export.rejected"),
        ({"output": "s3://me:secret@bucket/x"}, "export.output: holds a secret"),
        ({"output": "s5://bucket/x"}, "export.output: cannot open"),
        ({"push": "me/data"}, "HF_TOKEN"),
    ],
)
def test_a_wrong_key_ends_with_exit_code_2_before_any_work(
    tmp_path: Path,
    keys: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = data.write(tmp_path, data.plain_rows(1))
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"out": run.root, "export": keys}))
    assert main(["export", str(file)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_several_methods_or_plans_need_a_choice(tmp_path: Path) -> None:
    row = data.plain_rows(1)[0]
    row["selections"].append(row["selections"][0] | {"method": "mbr"})
    with pytest.raises(ConfigError, match=r"export\.method: choose one of best, mbr, sample"):
        data.export(data.write(tmp_path / "a", [row]))
    row["selections"].append(row["selections"][0] | {"plan": "cool"})
    with pytest.raises(ConfigError, match=r"export\.plan: several .* cool, hedged"):
        data.export(data.write(tmp_path / "b", [row]))


def test_a_policy_is_exported_with_each_rows_own_plan_and_scorer(tmp_path: Path) -> None:
    from pipeline.config.load import build_config
    from pipeline.jobs.export.build import build

    row = data.plain_rows(1)[0]
    row["selections"].append(row["selections"][0] | {"plan": "policy", "method": "policy"})
    run = data.write(tmp_path, [row])
    rule = {"plan": "hedged", "selector": "best"}
    settings = {"selectors": {"best": {"kind": "longest"}}, "sampling": {"kind": "hedged"}, "policy": {"default": rule}}
    done = build(build_config({"out": run.root, **settings, "export": {"format": "reward"}}))
    assert (done.choices.plan, data.records(done)[0]["margin"]) == ("policy", 2.0)


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedTableError):
        data.export(data.write(tmp_path, data.plain_rows(1), finished=False))


def test_nothing_is_written_when_no_row_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="score too small: 2"):
        data.export(data.write(tmp_path, data.plain_rows(2)), min_score=99.0)
    assert list((tmp_path / "export").iterdir()) == []


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    run = data.write(tmp_path / "run", data.plain_rows(2))
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "README.md").write_text("mine")
    for output in (other, tmp_path / "run", tmp_path):
        with pytest.raises(ConfigError, match=r"export\.output"):
            data.export(run, output=str(output))
    assert (other / "README.md").read_text() == "mine"


def test_the_same_run_gives_the_same_bytes_and_replaces_the_export(tmp_path: Path) -> None:
    run = data.write(tmp_path, data.plain_rows(30))

    def hashes(**keys: Any) -> dict[str, str]:
        folder = data.export(run, format="dpo", **keys).folder
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    many = hashes(rows_per_shard=4)
    assert many == hashes(rows_per_shard=4) and any("data/train-00000-of-00007-" in name for name in many)
    assert len(hashes()) == 3  # nothing is left of the many shards
    assert [p.name for p in (tmp_path / "export").iterdir()] == ["dpo"]


def test_a_failure_leaves_the_earlier_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = data.write(tmp_path, data.plain_rows(3))
    before = (data.export(run).folder / "README.md").read_bytes()
    monkeypatch.setattr("pipeline.jobs.export.build.write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.export(run, seed=7)
    assert (tmp_path / "export" / "sft" / "README.md").read_bytes() == before
    assert [p.name for p in (tmp_path / "export").iterdir()] == ["sft"]


def test_the_command_prints_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = data.write(tmp_path, [*data.plain_rows(2), cut(0)])
    assert main(["export", f"out={run.root}"]) == 0
    out = capsys.readouterr().out
    assert "left out: answer cut at the token limit" in out and "export: sft of hedged/best" in out


def chosen_by(detail: dict[str, Any], **more: Any) -> dict[str, Any]:
    row = drop()
    row["selections"][0] |= {"detail": json.dumps(detail), **more}
    return row


def solved(texts: list[str], values: list[float], **more: Any) -> dict[str, Any]:
    """A maths prompt whose right answer is 18."""
    return data.row(1, texts, [*values]) | {"task": "math", "reference": "18"} | more


FUSED = {"index": -1, "text": "A new answer, made of the others."}
KINDS = ("sft", "dpo", "kto", "reward")


@pytest.mark.parametrize("format", KINDS)
@pytest.mark.parametrize(
    "reason", ["no final answer", "unreadable verdict", "no valid score", "RuntimeError: the selector crashed"]
)
def test_a_fallback_is_no_choice(tmp_path: Path, reason: str, format: str) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    run = data.write(tmp_path, [good, chosen_by({"fallback": reason})])
    assert data.export(run, format=format).counts.dropped == {"fallback, not a choice": 1}
    assert not data.export(run, format=format, fallbacks=False).counts.dropped


def test_a_fused_answer_may_be_truncated_too(tmp_path: Path) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    rows = [good, chosen_by({"finish_reason": "length"}, **FUSED)]
    run = data.write(tmp_path, rows)
    assert data.export(run).counts.dropped == {"answer cut at the token limit": 1}
    assert not data.export(run, truncated=False).counts.dropped
    rows[1]["selections"][0]["detail"] = json.dumps({"finish_reason": "stop"})
    assert not data.export(data.write(tmp_path / "whole", rows)).counts.dropped


@pytest.mark.parametrize("format", ["dpo", "kto", "reward"])
@pytest.mark.parametrize(
    ("chosen", "rejected", "same"),
    [
        ("It costs **1,000** dollars.", "it costs 1000 dollars", True),
        ("# The answer\n\n- yes", "The answer: Yes!", True),
        ("बत्तख १८ हैं।", "बत्तख 18 हैं", True),
        ("答案是１８。", "答案是18", True),
        ("It costs 1.5 dollars.", "It costs 15 dollars.", False),
        ("It is -5.", "It is 5.", False),
        ("It costs €5 now.", "It costs $5 now.", False),
        ("यह कि", "यह का", False),
        ("Use `a*b` here.", "Use `ab` here.", False),
        ("A plain answer.", "A plain answer, and more.", False),
    ],
)
def test_texts_that_differ_only_in_their_dress_are_no_pair(
    tmp_path: Path, chosen: str, rejected: str, same: bool, format: str
) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    run = data.write(tmp_path, [good, data.row(1, [chosen, rejected], [1.0, 0.5])])
    done = data.export(run, format=format, language=False)
    if format == "kto":  # the good answer stands alone
        assert len(data.records(done)) == (3 if same else 4)
    else:
        assert done.counts.dropped == ({"no other answer to reject": 1} if same else {})


@pytest.mark.parametrize("gap", [1e-8, 1e-7])
def test_a_margin_is_above_rounding(tmp_path: Path, gap: float) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    row = data.row(1, ["An answer here.", "Another one there."], [0.3 + gap, 0.3])
    for format in ("dpo", "reward"):
        done = data.export(data.write(tmp_path, [good, row]), format=format)
        assert done.counts.dropped == {"margin too small": 1}
    exact = data.row(1, ["An answer here.", "Another one there."], [0.3, 0.2])  # 0.3 - 0.2 < 0.1
    assert not data.export(data.write(tmp_path / "exact", [good, exact]), format="dpo", min_margin=0.1).counts.dropped


@pytest.mark.parametrize("format", ["dpo", "kto", "reward"])
def test_an_answer_that_the_metric_calls_wrong_is_not_chosen_over_a_right_one(tmp_path: Path, format: str) -> None:
    good = data.row(0, ["The very best answer.", "The second best."], [9.0, 0.0])
    wrong = solved(["I think that the answer is 17.", "I think that the answer is 18."], [1.0, 0.0])
    run = data.write(tmp_path, [good, wrong])
    reason = "wrong by the task's metric, the rejected answer right"
    assert data.export(run, format=format).counts.dropped == {reason: 1}
    assert not data.export(run, format=format, contradicted=False).counts.dropped
    for i, texts in enumerate((["The answer is 18.", "The answer is 17."], ["The answer is 17.", "The answer is 16."])):
        kept = data.write(tmp_path / str(i), [good, solved(texts, [1.0, 0.0])])
        assert not data.export(kept, format=format).counts.dropped


def test_a_threshold_is_a_quantile_within_the_language(tmp_path: Path) -> None:
    german = [
        "Der Regen fällt heute den ganzen Tag auf die Stadt.",
        "Morgen scheint wieder die Sonne über dem Land.",
        "Im Winter liegt der Schnee auf den hohen Bergen.",
        "Am Abend gehen die Kinder müde nach Hause.",
    ]
    english = [
        "The rain falls on the town for the whole day.",
        "Tomorrow the sun will shine on the land again.",
        "In winter the snow lies on the high mountains.",
        "In the evening the tired children go home.",
    ]
    rows = [
        data.row(i, [text, "b"], [score, 0.0]) | {"language": language}
        for i, (language, text, score) in enumerate(
            [("en", text, 7.0 + n) for n, text in enumerate(english)]
            + [("de_DE" if n % 2 else "de", text, 1.0 + n) for n, text in enumerate(german)]
        )
    ]
    run = data.write(tmp_path, rows)
    absolute = data.export(run, min_score=6.0).counts
    assert {lang for _, lang in absolute.exported} == {"en"}  # German starves
    done = data.export(run, min_score_quantile=0.5)
    kept = {record["messages"][-1]["content"] for record in data.records(done)}
    assert kept == {*english[2:], *german[2:]}
    assert done.counts.dropped == {"score too small for its language": 4}
    card = (done.folder / "README.md").read_text("utf-8")
    assert "Smallest score by language: de 3, en 9." in card and "`min_score_quantile=0.5`" in card
    with pytest.raises(ConfigError, match=r"export\.min_score_quantile"):
        data.export(run, min_score_quantile=1.0)


def test_copies_of_one_prompt_are_in_one_split(tmp_path: Path) -> None:
    from pipeline.core.folder import RunFolder
    from pipeline.prompts.sources import FileSource, read_prompts

    lines = [{"prompt": f"question {i % 30}", "language": "en" if i % 2 else "de"} for i in range(90)]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for name, ids in (("derived", False), ("explicit", True)):
        if ids:
            lines = [line | {"prompt_id": f"own-{i}"} for i, line in enumerate(lines)]
            (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        run = RunFolder(str(tmp_path / name))
        report = read_prompts(FileSource(path=str(tmp_path / "p.jsonl")), run)
        table = run.dataset("prompts").to_table(columns=["cluster_id"])
        assert report.clusters == 30 == len(set(table["cluster_id"].to_pylist()))
    limited = read_prompts(
        FileSource(path=str(tmp_path / "p.jsonl"), limit_clusters=5), RunFolder(str(tmp_path / "few"))
    )
    assert (limited.rows, limited.clusters) == (15, 5)
    rows = data.plain_rows(90)
    for i, row in enumerate(rows):
        row |= {"cluster_id": None, "messages": [{"role": "user", "content": f"What is question {i % 30}?"}]}
    done = data.export(data.write(tmp_path / "run", rows), splits={"train": 0.5, "test": 0.5})
    asked = {s: {r["messages"][0]["content"] for r in data.records(done, s)} for s in ("train", "test")}
    assert asked["train"] and asked["test"] and not asked["train"] & asked["test"]
