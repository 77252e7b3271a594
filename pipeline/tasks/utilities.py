"""Utilities u(hypothesis, reference) for minimum Bayes risk, as matrices; and sentence chrF of many texts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.core.languages import base_language

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Utility = Callable[[Sequence[str], Sequence[str], str | None], list[list[float]]]
"""(hypotheses, references, the language that they should be in) -> matrix [hypothesis][reference]."""

_ORDER = 6
_BETA_SQUARED = 4


def bleu_matrix(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None) -> list[list[float]]:
    """Sentence BLEU in 0..100 by sacrebleu, with the effective n-gram order (short answers lack 4-grams).

    Source: Papineni 2002; Chen and Cherry 2014. Slow: about 1 ms a pair. Texts in scripts that put no spaces between
    words are split into characters, Chinese by sacrebleu's own tokenizer.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True, tokenize=_TOKENIZERS.get(base_language(language) or "", "13a"))
    return [[metric.sentence_score(h, [r]).score for r in references] for h in hypotheses]


def cosine_matrix(vectors: Sequence[Sequence[float]]) -> list[list[float]]:
    """Cosine of every two embedding vectors, in -1..1; a zero vector is like nothing.

    Made exactly symmetric: rounding must not decide between candidates that tie.
    """
    if not vectors:
        return []
    array = np.asarray(vectors, dtype=np.float64)
    norm = np.linalg.norm(array, axis=1, keepdims=True)
    unit = array / np.where(norm > 0, norm, 1.0)
    product = unit @ unit.T
    return ((product + product.T) / 2).tolist()  # type: ignore[no-any-return]


def chrf_matrix(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None) -> list[list[float]]:
    """Sentence chrF (character order 6, beta 2, no white space) in 0..100; equals sacrebleu's ``CHRF`` bit for bit.

    Source: Popovic 2015. Every distinct text's n-grams are counted once, where a loop over pairs counts them per pair:
    ten times faster and more (``tests/tasks/test_utilities.py`` prints the ratio).
    """
    place = {text: i for i, text in enumerate(dict.fromkeys((*hypotheses, *references)))}
    stripped = ["".join(text.split()) for text in place]
    lengths = np.array([len(text) for text in stripped], dtype=np.int64)
    rows, columns = (np.array([place[t] for t in texts], dtype=np.int64) for texts in (hypotheses, references))
    matches = _matches(stripped, lengths, np.unique(columns))
    precision = np.zeros((len(rows), len(columns)))
    recall, orders = np.zeros_like(precision), np.zeros_like(precision)
    for k in range(_ORDER):
        grams = np.maximum(lengths - k, 0)
        hypothesis, reference = grams[rows][:, None], grams[columns][None, :]
        counts = (hypothesis > 0) & (reference > 0)  # sacrebleu's effective order
        matched = matches[k][np.ix_(rows, columns)]
        precision += np.where(counts, matched / np.maximum(hypothesis, 1), 0.0)
        recall += np.where(counts, matched / np.maximum(reference, 1), 0.0)
        orders += counts
    return _f_score(precision, recall, orders).tolist()  # type: ignore[no-any-return]


def aggregate_chrf(texts: Sequence[str], extra: Sequence[str] = ()) -> list[float]:
    """chrF of every text against the mean n-gram counts of the other texts (by index) and ``extra``, in 0..100.

    Source: reference aggregation, Vamvas and Sennrich 2024 (after DeNero 2009); there the text's own counts are part of
    the mean. O(all characters), not O(N^2); it is not the mean of the chrF scores. 0 where there is no other text.
    """
    stripped = ["".join(text.split()) for text in (*texts, *extra)]
    lengths = np.array([len(text) for text in stripped], dtype=np.int64)
    n, others = len(stripped), max(len(stripped) - 1, 1)
    precision, recall, orders = np.zeros(n), np.zeros(n), np.zeros(n)
    grams = _grams(stripped, lengths) if lengths.sum() else iter(())
    for k, (gram, owner) in enumerate(grams):
        key, counts = np.unique(gram * n + owner, return_counts=True)
        gram, owner = key // n, key % n
        mean_of_others = (np.bincount(gram, weights=counts)[gram] - counts) / others
        matched = np.bincount(owner, weights=np.minimum(counts, mean_of_others), minlength=n)
        total = np.maximum(lengths - k, 0)
        reference = (total.sum() - total) / others
        both = (total > 0) & (reference > 0)
        precision += np.where(both, matched / np.maximum(total, 1), 0.0)
        recall += np.where(both, matched / np.where(reference > 0, reference, 1.0), 0.0)
        orders += both
    return _f_score(precision, recall, orders)[: len(texts)].tolist()  # type: ignore[no-any-return]


def _f_score(precision: Floats, recall: Floats, orders: Floats) -> Floats:
    """F score, in 0..100, of sums of precision and recall over so many orders."""
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    weight = _BETA_SQUARED * precision + recall
    score: Floats = 100 * ((1 + _BETA_SQUARED) * precision * recall / np.where(weight > 0, weight, 1.0))
    return score


def _grams(texts: Sequence[str], lengths: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For the orders 1 to 6: the number of every n-gram and the text that it stands in. Not for texts without a letter.

    All positions of all texts are sorted once by the 6 characters that begin there; equal n-grams of every order
    are then neighbours.
    """
    n = len(texts)
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    alphabet, ids = np.unique(points, return_inverse=True)
    owner = np.repeat(np.arange(n), lengths)
    start = np.arange(len(points)) + owner * (_ORDER - 1)
    codes = np.zeros(start[-1] + _ORDER, dtype=np.int64)  # 0 between texts: an n-gram that meets one is none
    codes[start] = ids + 1
    bits = len(alphabet).bit_length()

    def pack(first: int, last: int) -> Ints:
        key: Ints = codes[start + first]
        for k in range(first + 1, last):
            key = key << bits | codes[start + k]
        return key

    # Characters of three positions always fit into 64 bits, those of six only for alphabets below 1,024.
    order = np.argsort(pack(0, _ORDER)) if bits * _ORDER < 64 else np.lexsort((pack(3, _ORDER), pack(0, 3)))
    start, owner = start[order], owner[order]
    differs = np.zeros(len(order), dtype=bool)
    for k in range(_ORDER):
        last = codes[start + k]
        differs[1:] |= last[1:] != last[:-1]
        gram = np.cumsum(differs)
        whole = last > 0
        yield gram[whole], owner[whole]


def _matches(texts: Sequence[str], lengths: Ints, references: Ints) -> Ints:
    """Common n-grams [order - 1][text][text], counted with their multiplicity; the other columns stay 0."""
    n = len(texts)
    matches = np.zeros((_ORDER, n, n), dtype=np.int64)
    if not lengths.sum():
        return matches
    shared: list[NDArray[np.int32]] = []
    for gram, owner in _grams(texts, lengths):
        size = int(gram.max(initial=0)) + 1
        counts = np.bincount(gram * n + owner, minlength=size * n).reshape(-1, n)
        several = np.count_nonzero(counts, axis=1) > 1
        several[0] = True  # reduceat knows no empty slices, and a gram of one text adds to no other
        shared.append(counts[several].T.astype(np.int32))
    columns = np.concatenate(shared, axis=1)
    first = np.cumsum([0, *(block.shape[1] for block in shared[:-1])])
    for i in references:
        matches[:, :, i] = np.add.reduceat(np.minimum(columns, columns[i]), first, axis=1).T
        matches[:, i, i] = np.maximum(lengths[i] - np.arange(_ORDER), 0)
    return matches


_TOKENIZERS = {"zh": "zh", **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo"), "char")}
UTILITIES: dict[str, Utility] = {"chrf": chrf_matrix, "bleu": bleu_matrix}
"""Utilities of two texts by name; ``embedding`` and ``judge`` need an engine and live in the selector."""
