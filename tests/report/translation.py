"""A run without games: translations of six languages, three temperatures, floors, metrics as `judge` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.config import Config
from pipeline.config.load import build_config
from pipeline.core.folder import RunFolder
from pipeline.core.schema import COLUMNS
from tests.tables import write_table

SOURCES = {
    "de": "Janets Enten legen jeden Tag {n} Eier. Drei davon isst sie zum Frühstück.",
    "es": "Los patos de Janet ponen {n} huevos al día. Ella come tres en el desayuno.",
    "fr": "Les canes de Janet pondent {n} œufs par jour. Elle en mange trois au petit-déjeuner.",
    "ja": "ジャネットのアヒルは一日に{n}個の卵を産みます。彼女は朝食に三個食べます。骨・直・角。",
    "ru": "Утки Джанет откладывают {n} яиц в день. Три она съедает на завтрак.",
    "zh": "珍妮特的鸭子每天下{n}个蛋。她早餐吃三个。骨、直、角的字形也要看。",
}
PLANS = {"hedged": 0.7, "cool": 0.3, "hot": 1.0}
BOTH = ("es", "ja")
CONFIG: dict[str, Any] = {
    "engines": {"generator": {"kind": "dummy", "model": "gemma-3-270m"}},
    "sampling": {"kind": "hedged", "n": 9, "temperature": 0.7, "max_tokens": 128},
    "plans": {
        "cool": {"kind": "single", "n": 8, "temperature": 0.3, "max_tokens": 128, "only_languages": list(BOTH)},
        "hot": {"kind": "single", "n": 8, "temperature": 1.0, "max_tokens": 128, "only_languages": list(BOTH)},
    },
    "selectors": {
        "sample": {},
        "greedy": {"plans": ["hedged"]},
        "likelihood": {},
        "mbr": {"utility": "chrf", "origins": ["sample"]},
        "hedged_mbr": {"kind": "mbr", "utility": "chrf"},
        "oracle": {},
    },
    "answers": {
        "copy_source": {"kind": "column", "column": "copy_source"},
        "shuffled_reference": {"kind": "column", "column": "shuffled_reference"},
    },
    "judge": {"engine": None},
    "winrate": {"draws": 200},
    "report": {"title": "Translation into English by a small base model", "samples": 6},
}


def config(**changes: Any) -> Config:
    return build_config({**CONFIG, **changes})


def candidate(plan: str, origin: str, text: str, temperature: float, tokens: int) -> dict[str, Any]:
    base = {f.name: None for f in COLUMNS["candidates"].value_type} | {"plan": plan, "model": "gemma-3-270m"}
    base |= {
        "origin": origin,
        "text": text,
        "language": "en",
        "temperature": temperature,
        "num_tokens": tokens,
        "min_p": 0.0,
    }
    return base | {"finish_reason": "stop", "logprob": -12.5, "seed": 1}


def make_row(row_id: int, language: str, question: int, gain: float = 0.08) -> dict[str, Any]:
    """MBR takes the sample that is ``gain`` better than the others; greedy is the mean of the samples."""
    rng = np.random.default_rng(row_id)
    level = 0.45 + rng.uniform(-0.1, 0.1)
    row: dict[str, Any] = {"candidates": [], "scores": [], "selections": []}
    for plan, temperature in PLANS.items():
        if plan != "hedged" and language not in BOTH:
            continue
        chrf = level + rng.normal(0.0, 0.1 * temperature, 8)
        chrf[3] = chrf.mean() + gain + rng.normal(0.0, 0.02)
        values = [*([float(chrf.mean())] if plan == "hedged" else []), *(float(v) for v in chrf.clip(0, 1))]
        first = len(values) - 8
        for i in range(len(values)):
            greedy = i < first
            text = f"Janet's ducks lay {question} eggs per day ({plan} {i}). She eats three for breakfast."
            origin = "greedy" if greedy else "sample"
            row["candidates"].append(candidate(plan, origin, text, 0.0 if greedy else temperature, 20 + i))
        for metric, factor in (("chrf", 1.0), ("bleu", 0.5), ("numbers", 0.9)):
            numbers = [round(v * factor, 4) for v in values]
            row["scores"].append({"scorer": f"metric:{metric}", "plan": plan, "values": numbers})
        languages = [1.0] * (len(values) - 1) + [0.0 if row_id % 5 == 0 else 1.0]
        row["scores"].append({"scorer": "metric:language", "plan": plan, "values": languages})
        best = int(np.argmax(values))
        picks = {"sample": first, "likelihood": first + 1, "mbr": first + 3, "hedged_mbr": first + 3, "oracle": best}
        picks |= {"greedy": 0} if first else {}
        for method, index in picks.items():
            text = row["candidates"][index - len(values)]["text"]
            row["selections"].append(
                {"plan": plan, "method": method, "index": index, "text": text, "score": None, "detail": None}
            )
    source = SOURCES[language].format(n=question)
    floors = {"copy_source": (source, 0.05), "shuffled_reference": ("breakfast three eats", 0.2)}
    for system, (_, chrf) in floors.items():
        for metric, value in (("chrf", chrf), ("bleu", 0.01), ("numbers", 0.5), ("language", 1.0)):
            row["scores"].append({"scorer": f"metric:{metric}", "plan": f"answer:{system}", "values": [value]})
    used = {"job": "generate", "model": "gemma-3-270m", "requests": 2, "prompt_tokens": 500, "cached_tokens": 384}
    return row | {
        "row_id": row_id,
        "prompt_id": f"mgsm-{question}-{language}",
        "cluster_id": f"mgsm-{question}",
        "task": "translation",
        "language": language,
        "messages": [{"role": "user", "content": source, "name": None, "tool_calls": None}],
        "reference": f"Janet's ducks lay {question} eggs per day. She eats three for breakfast.",
        "answers": [{"system": system, "text": text} for system, (text, _) in floors.items()],
        "games": [],
        "usage": [used | {"stage": f"generate:{plan}", "completion_tokens": 200} for plan in PLANS],
        "errors": [],
    }


def rows_for(questions: int, gain: float = 0.08) -> list[dict[str, Any]]:
    keys = [(q, language) for q in range(questions) for language in SOURCES]
    return [make_row(i, language, q, gain) for i, (q, language) in enumerate(keys)]


def write_run(folder: Path, rows: list[dict[str, Any]], table: str = "games") -> RunFolder:
    left_out = () if table == "games" else ("games", "answers")
    kept = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
    return write_table(RunFolder(str(folder)), table, kept)
