#!/usr/bin/env python3
"""Turns MGSM's parallel questions into a translation task: prompts (JSON Lines) and the examples for few-shot prompts.

    python scripts/mgsm_translation.py MGSM_FOLDER OUT_FOLDER [--questions 30] [--languages es,fr,de,ja,ru,zh]

MGSM_FOLDER holds ``mgsm_LANGUAGE.tsv`` (question TAB number, the same 250 problems in every language), as in the
repository google-research/url-nlp (CC BY 4.0). OUT_FOLDER gets

* ``prompts.jsonl``: one question in one language a line; the English question is the reference; translations of one
  question share a cluster; ``copy_source`` and ``shuffled_reference`` (another prompt's reference) are floors;
* ``examples.yaml``: a config layer with the last questions of the set as few-shot examples, which no prompt repeats.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

TARGET = "en"


def questions(folder: Path, language: str) -> list[str]:
    """The set's questions in one language, in order."""
    path = folder / f"mgsm_{language}.tsv"
    if not path.is_file():
        raise SystemExit(
            f"{path}: no such file; MGSM_FOLDER must hold mgsm_LANGUAGE.tsv as in "
            "https://github.com/google-research/url-nlp/tree/main/mgsm"
        )
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def build(folder: Path, out: Path, n: int, languages: list[str], shots: int) -> int:
    """Write both files; returns the number of prompts."""
    target = questions(folder, TARGET)
    if n + shots > len(target):
        raise SystemExit(f"--questions {n}: there are {len(target)}, of which {shots} are the examples")
    rows, examples = [], []
    for language in languages:
        texts = questions(folder, language)
        for i in range(n):
            rows.append(
                {
                    "prompt_id": f"mgsm-{i:03d}-{language}",
                    "cluster_id": f"mgsm-{i:03d}",
                    "task": "translation",
                    "language": language,
                    "prompt": texts[i],
                    "reference": target[i],
                    "copy_source": texts[i],
                    "shuffled_reference": target[(i + n // 2) % n],
                }
            )
        last = range(len(target) - shots, len(target))
        examples += [{"source": texts[i], "target": target[i], "language": language} for i in last]
    out.mkdir(parents=True, exist_ok=True)
    write(out / "prompts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    layer = {
        "prompts": {"kind": "file", "path": str((out / "prompts.jsonl").resolve())},
        "tasks": {"translation": {"few_shot": examples}},
    }
    write(out / "examples.yaml", OmegaConf.to_yaml(OmegaConf.create(layer)))
    return len(rows)


def write(path: Path, text: str) -> None:
    """Write a file, unless it holds the text already: a run refuses to go on with files that changed."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a translation task of MGSM's parallel questions.")
    parser.add_argument("mgsm", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--languages", default="es,fr,de,ja,ru,zh")
    parser.add_argument("--shots", type=int, default=3)
    args = parser.parse_args()
    n = build(args.mgsm, args.out, args.questions, args.languages.split(","), args.shots)
    print(f"{n} prompts: {args.out / 'prompts.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
