"""Makes real candidate pools on which adaptive N is replayed, and keeps their numbers.

    python scripts/bench/adaptive_pools.py translation MGSM_FOLDER OUT [key=value ...] [--from 100] [--prompts 60]
    python scripts/bench/adaptive_pools.py sentences MGSM_FOLDER OUT [key=value ...] [--prompts 240]
    python scripts/bench/adaptive_pools.py mixed MGSM_FOLDER OUT [key=value ...] [--prompts 200]
    python scripts/bench/adaptive_pools.py sums OUT [key=value ...] [--prompts 100]

Each also takes ``--n`` (32).

Those in ``scripts/bench/pools`` were made so, on both cores (``VLLM_CPU_OMP_THREADS_BIND=0-1``), in about an hour each:

    FAST="prompts.shard_rows=1 engines.generator.max_num_seqs=128"
    FAST="$FAST engines.generator.engine_args.block_size=32 sampling.min_p=0.1"
    ... translation MGSM_FOLDER OUT $FAST --from 160 --prompts 84 --n 48
    ... sentences MGSM_FOLDER OUT $FAST sampling.max_tokens=96 --n 48
    ... mixed MGSM_FOLDER OUT $FAST --n 32

translation: questions of MGSM from a number on into English, each in one of six languages in turn (so every prompt is
a cluster of its own), 3-shot, by the 270M base model of ``scripts/translation_model.py``. Rewards: chrF against the
reference (an oracle), and the candidate's mean token log-probability.
sentences: the same with one sentence of each question, drawn at random from a question that has as many sentences in
both languages: short and long ones, as the segments of translation sets are.
mixed: one job of short and long texts: every fourth question as a whole, and a sentence of each other one. No prompt is
in one of the pools above: questions are in another language, sentences are others of their question.
sums: additions of two to six numbers, made by a seeded generator, answered by the demo's 135M chat model
(``scripts/demo_model.py``); the votes are the last numbers of the answers.

OUT/run is an ordinary run; OUT/pools.parquet holds one line a candidate: ``prompt_id, index, tokens, logprob,
quality`` (chrF, or 1 = right), ``answer`` (a hash). No text.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.core.row import row_from_dict
from pipeline.jobs import run as runner
from pipeline.tasks import task_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from mgsm_translation import questions

FIRST = 100  # earlier questions were looked at when the method was made
LANGUAGES = ("es", "fr", "de", "ja", "ru", "zh")
SHOTS = 3
WORDS = 3
_TITLE = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Sr|Sra|Fr|Hr|M)\.$")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*(?=\S)")


def translation(mgsm: Path, out: Path, first: int, prompts: int, n: int) -> list[str]:
    """Write prompts and examples; returns the run's config."""
    texts = {language: questions(mgsm, language) for language in (*LANGUAGES, "en")}
    rows = []
    for i in range(prompts):
        at, language = first + i, LANGUAGES[i % len(LANGUAGES)]
        rows.append(_row(f"mgsm-{at}-{language}", language, texts[language][at], texts["en"][at]))
    examples = {
        language: [(texts[language][-1 - k], texts["en"][-1 - k]) for k in range(SHOTS)] for language in LANGUAGES
    }
    return translated(out, rows, examples, n)


def sentences(mgsm: Path, out: Path, prompts: int, n: int) -> list[str]:
    """Write prompts and examples; returns the run's config."""
    texts = {language: questions(mgsm, language) for language in (*LANGUAGES, "en")}
    # Left out only after they are drawn: to split better would draw other sentences than those of the stored pool.
    rows = [
        _row(f"sentence-{at}-{language}", language, *pair)
        for at, (language, pair) in _drawn(texts, prompts).items()
        if _are_whole(texts, at, language, *pair)
    ]
    return translated(out, rows, {each: _last(texts, each, prompts)[:SHOTS] for each in LANGUAGES}, n)


def mixed(mgsm: Path, out: Path, prompts: int, n: int) -> list[str]:
    """Write prompts and examples; returns the run's config."""
    texts = {language: questions(mgsm, language) for language in (*LANGUAGES, "en")}
    rng, rows = random.Random(20261129), []
    known = {at: target for at, (_, (_, target)) in _drawn(texts, prompts).items()}
    for at in range(prompts):
        if at % 4 == 0:
            language = LANGUAGES[(at + 5) % len(LANGUAGES)]
            found = [(texts[language][at], texts["en"][at])]
        else:
            language = _language(texts, at, at + 3) or LANGUAGES[0]  # without sentences that go together none is found
            pairs = _pairs(texts, at, language)
            found = [p for p in pairs if p[1] != known.get(at) and _are_whole(texts, at, language, *p)]
        if found:
            rows.append(_row(f"mixed-{at}-{language}", language, *rng.choice(found)))
    shown = {
        each: [*_last(texts, each, prompts)[: SHOTS - 1], (texts[each][-1], texts["en"][-1])] for each in LANGUAGES
    }
    return translated(out, rows, shown, n)


def _row(prompt_id: str, language: str, source: str, target: str) -> dict[str, Any]:
    row = {"prompt_id": prompt_id, "language": language, "prompt": source}
    return {**row, "task": "translation", "reference": target}


def _drawn(texts: dict[str, list[str]], prompts: int) -> dict[int, tuple[str, tuple[str, str]]]:
    """Question -> (language, a sentence of it and its translation), as the stored pool of sentences has them."""
    rng, found = random.Random(20261128), {}
    for at in range(prompts):
        language = _language(texts, at, at)
        if language is not None:
            found[at] = language, rng.choice(_pairs(texts, at, language))
    return found


def _pairs(texts: dict[str, list[str]], at: int, language: str) -> list[tuple[str, str]]:
    """A question's sentences beside their translations; none where their numbers differ."""
    source, target = (_SENTENCE.split(texts[name][at].strip()) for name in (language, "en"))
    if len(source) != len(target):
        return []
    return [pair for pair in zip(source, target, strict=True) if len(pair[1].split()) >= WORDS]  # no "Mr."


def _language(texts: dict[str, list[str]], at: int, turn: int) -> str | None:
    """The first language, from ``turn`` on, in which a question can be split."""
    each = [LANGUAGES[(turn + k) % len(LANGUAGES)] for k in range(len(LANGUAGES))]
    return next((language for language in each if _pairs(texts, at, language)), None)


def _last(texts: dict[str, list[str]], language: str, prompts: int) -> list[tuple[str, str]]:
    """A sentence of each question behind the prompts, from the last one on."""
    return [pair for at in range(len(texts["en"]) - 1, prompts - 1, -1) for pair in _pairs(texts, at, language)[:1]]


def _are_whole(texts: dict[str, list[str]], at: int, language: str, source: str, target: str) -> bool:
    return _is_whole(source, texts[language][at]) and _is_whole(target, texts["en"][at])


def _is_whole(sentence: str, text: str) -> bool:
    """Whether it does not begin or end inside a number or behind a title."""
    before, _, behind = text.partition(sentence)
    joined = before[-1:] in (".", "!", "?") or (sentence[-1] in ".!?" and behind[:1].strip())
    return not joined and not _TITLE.search(sentence)


def translated(out: Path, rows: list[dict[str, Any]], shown: dict[str, list[tuple[str, str]]], n: int) -> list[str]:
    """Write prompts and the examples (source, target) of every language; returns the run's config."""
    examples = [
        {"source": source, "target": target, "language": language}
        for language, pairs in shown.items()
        for source, target in pairs
    ]
    save(out, rows)
    OmegaConf.save(OmegaConf.create({"tasks": {"translation": {"few_shot": examples}}}), out / "examples.yaml")
    return [
        *("translation", str(out / "examples.yaml"), "plans=null", "answers=null", "selectors=null"),
        f"sampling={{kind: single, n: {n}, temperature: 0.7, max_tokens: 128}}",
        "selectors={likelihood: {}, oracle: {}}",
    ]


def sums(out: Path, prompts: int, n: int) -> list[str]:
    """Write additions of growing difficulty; returns the run's config."""
    rng, rows = random.Random(20261125), []
    for i in range(prompts):
        numbers = [rng.randint(2, 10 ** rng.choice((1, 2)) - 1) for _ in range(2 + i % 5)]
        prompt = f"What is {' + '.join(map(str, numbers))}? Answer with the number only."
        row = {"prompt_id": f"sum-{i}", "language": "en", "prompt": prompt, "task": "math"}
        rows.append({**row, "reference": str(sum(numbers))})
    save(out, rows)
    return [
        *("demo", "answers=null", "judge.engine=null", "selectors=null", "selectors={majority_vote: {}, oracle: {}}"),
        f"sampling={{kind: single, n: {n}, temperature: 0.7, max_tokens: 24}}",
        "tasks={math: {instructions: {en: ''}}}",
    ]


def save(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``prompts.jsonl``."""
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = out / "prompts.jsonl"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def numbers_of(folder: str) -> pa.Table:
    """The numbers of a finished run's candidates."""
    run, found = RunFolder(folder), []
    for item in run.iter_rows("selections", ["row_id", "prompt_id", "task", "language", "messages", "reference",
                                             "candidates", "scores"]):  # fmt: skip
        row = row_from_dict(item)
        task, quality = task_for(row, {}), next(s.values for s in row.scores if s.scorer == "oracle")
        for i, c in enumerate(row.candidates):
            answer = None if row.task == "translation" or c.text is None else task.canonicalise(c.text, row)
            line: dict[str, Any] = {"prompt_id": row.prompt_id, "index": i, "tokens": c.num_tokens}
            line["logprob"] = None if c.logprob is None or not c.num_tokens else c.logprob / c.num_tokens
            line["quality"] = quality[i]
            line["answer"] = None if answer is None else int(digest(answer, size=7), 16)
            found.append(line)
    return pa.Table.from_pylist(found).sort_by([("prompt_id", "ascending"), ("index", "ascending")])


def main() -> int:
    parser = argparse.ArgumentParser(description="Make real candidate pools.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, prompts in (("translation", 60), ("sentences", 240), ("mixed", 200), ("sums", 100)):
        one = kinds.add_parser(kind)
        if kind != "sums":
            one.add_argument("mgsm", type=Path)
        if kind == "translation":
            one.add_argument("--from", dest="first", type=int, default=FIRST)
        one.add_argument("out", type=Path)
        one.add_argument("--prompts", type=int, default=prompts)
        one.add_argument("--n", type=int, default=32)
        one.add_argument("words", nargs="*")
    args = parser.parse_args()
    if args.kind == "sums":
        made = sums(args.out, args.prompts, args.n)
    elif args.kind == "translation":
        made = translation(args.mgsm, args.out, args.first, args.prompts, args.n)
    else:
        make = {"sentences": sentences, "mixed": mixed}[args.kind]
        made = make(args.mgsm, args.out, args.prompts, args.n)
    folder = str((args.out / "run").resolve())
    prompts = ["prompts.kind=file", f"prompts.path={(args.out / 'prompts.jsonl').resolve()}"]
    runner.run(load_config([*made, *prompts, "seed=11", f"out={folder}", *args.words]))
    pq.write_table(numbers_of(folder), args.out / "pools.parquet")
    print(f"{args.out / 'pools.parquet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
