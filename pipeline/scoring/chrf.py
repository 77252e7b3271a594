"""Sentence chrF between all texts of a candidate set at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ORDER = 6
_BETA_SQUARED = 4


def chrf_matrix(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None) -> list[list[float]]:
    """Sentence chrF (character order 6, beta 2, no white space) in 0..100; equals sacrebleu's ``CHRF`` bit for bit.

    Source: Popovic 2015. Every distinct text's n-grams are counted once, where a loop over pairs counts them per pair:
    ten times faster and more (``tests/test_scoring.py`` prints the ratio).
    """
    place = {text: i for i, text in enumerate(dict.fromkeys((*hypotheses, *references)))}
    stripped = ["".join(text.split()) for text in place]
    lengths = np.array([len(text) for text in stripped], dtype=np.int64)
    matches = _matches(stripped, lengths)
    rows, columns = (np.array([place[t] for t in texts], dtype=np.int64) for texts in (hypotheses, references))
    precision = np.zeros((len(rows), len(columns)))
    recall, orders = np.zeros_like(precision), np.zeros_like(precision)
    for k in range(ORDER):
        grams = np.maximum(lengths - k, 0)
        hypothesis, reference = grams[rows][:, None], grams[columns][None, :]
        counts = (hypothesis > 0) & (reference > 0)  # sacrebleu's effective order
        matched = matches[k][np.ix_(rows, columns)]
        precision += np.where(counts, matched / np.maximum(hypothesis, 1), 0.0)
        recall += np.where(counts, matched / np.maximum(reference, 1), 0.0)
        orders += counts
    precision /= np.maximum(orders, 1)
    recall /= np.maximum(orders, 1)
    weight = _BETA_SQUARED * precision + recall
    score = (1 + _BETA_SQUARED) * precision * recall / np.where(weight > 0, weight, 1.0)
    return (100 * score).tolist()  # type: ignore[no-any-return]


def _matches(texts: Sequence[str], lengths: Ints) -> Ints:
    """Common n-grams [order - 1][text][text], counted with their multiplicity.

    All positions of all texts are sorted once by the 6 characters that begin there; equal n-grams of every order
    are then neighbours.
    """
    n = len(texts)
    matches = np.zeros((ORDER, n, n), dtype=np.int64)
    if not lengths.sum():
        return matches
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    alphabet, ids = np.unique(points, return_inverse=True)
    owner = np.repeat(np.arange(n), lengths)
    start = np.arange(len(points)) + owner * (ORDER - 1)
    codes = np.zeros(start[-1] + ORDER, dtype=np.int64)  # 0 between texts: an n-gram that meets one is none
    codes[start] = ids + 1
    bits = len(alphabet).bit_length()

    def pack(first: int, last: int) -> Ints:
        key: Ints = codes[start + first]
        for k in range(first + 1, last):
            key = key << bits | codes[start + k]
        return key

    # Characters of three positions always fit into 64 bits, those of six only for alphabets below 1,024.
    order = np.argsort(pack(0, ORDER)) if bits * ORDER < 64 else np.lexsort((pack(3, ORDER), pack(0, 3)))
    start, owner = start[order], owner[order]
    differs = np.zeros(len(order), dtype=bool)
    shared: list[NDArray[np.int32]] = []
    for k in range(ORDER):
        last = codes[start + k]
        differs[1:] |= last[1:] != last[:-1]
        gram = np.cumsum(differs)
        whole = last > 0
        counts = np.bincount(gram[whole] * n + owner[whole], minlength=(gram[-1] + 1) * n).reshape(-1, n)
        several = np.count_nonzero(counts, axis=1) > 1
        several[0] = True  # reduceat knows no empty slices, and a gram of one text adds to no other
        shared.append(counts[several].T.astype(np.int32))
    columns = np.concatenate(shared, axis=1)
    first = np.cumsum([0, *(block.shape[1] for block in shared[:-1])])
    for i in range(n):
        matches[:, i] = np.add.reduceat(np.minimum(columns, columns[i]), first, axis=1).T
        matches[:, i, i] = np.maximum(lengths[i] - np.arange(ORDER), 0)
    return matches
