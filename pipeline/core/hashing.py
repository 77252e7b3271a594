"""Seeds and ids derived from content, so that a retry, a resume or another cluster size gives the same result."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Any

_SEED_BITS = 31  # vLLM and torch take a non-negative int64; child k of an n-sample request gets seed + k

_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)


def digest(*parts: Any, size: int = 16) -> str:
    """Hex digest (``2 * size`` characters) of the JSON form of ``parts``; stable across processes."""
    return hashlib.blake2b(_JSON.encode(parts).encode("ascii"), digest_size=size).hexdigest()


def derive_seed(*parts: Any) -> int:
    """Seed in [0, 2**31) from e.g. (run seed, prompt_id, plan, entry).

    Neighbouring plain seeds share random streams in vLLM (child k gets seed + k), hence a hash.
    """
    return int(digest(*parts, size=8), 16) >> (64 - _SEED_BITS)


def hash_rng(*parts: Any) -> random.Random:
    """A ``random.Random`` seeded by the hash of ``parts``."""
    return random.Random(derive_seed(*parts))


def argmax(values: Sequence[float | None], *tie_key: Any) -> int | None:
    """Index of the largest value; ties are broken by a seeded hash, never by position.

    A lowest-index rule would favour the greedy candidate of a hedged set (shared definition, MBR ties).

    Args:
        values: one number per candidate; ``None`` marks an invalid score and is never chosen.
        tie_key: what seeds the tie-break, e.g. (run seed, prompt_id, selector name).

    Returns:
        The index, or ``None`` when no value is valid.
    """
    valid = [(v, i) for i, v in enumerate(values) if v is not None and v == v]
    if not valid:
        return None
    best = max(v for v, _ in valid)
    ties = [i for v, i in valid if v == best]
    return ties[0] if len(ties) == 1 else hash_rng("tie", *tie_key).choice(ties)
