"""Which label one token stands for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

LOOKALIKES = "АВСЕНКМОРТХΑΒΕΗΙΚΜΝΟΡΤΧΖ"
"""Cyrillic and Greek capitals that look like Latin ones, and are typed for them."""
_LATIN = str.maketrans(LOOKALIKES, "ABCEHKMOPTXABEHIKMNOPTXZ")


def latin(text: str) -> str:
    """Cyrillic and Greek capitals that look like Latin ones, as these."""
    return text.translate(_LATIN)


def bare_label(token: str, labels: Sequence[str]) -> str | None:
    """The label that a token is, whatever its decoration (``(B``, ``**B``, ``" b"``, ``Ｂ``)."""
    text = re.sub(r"^[^\w+#/=&]+|[\s.,:;!)\]}*_`\"'”’」】]+$", "", unicodedata.normalize("NFKC", token))
    text = latin(text.strip("_"))
    return next((label for label in labels if text in (label, label.lower())), None)


def match_label(token: str, labels: Sequence[str]) -> str | None:
    """The label that ``token`` stands for: equal to it but for decoration, else the beginning of it and of no other."""
    bare = bare_label(token, labels)
    if bare is not None:
        return bare
    text = token.lstrip()
    owners = [label for label in labels if text and label.startswith(text)]
    return owners[0] if len(owners) == 1 else None


def label_masses(top: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Label -> the probability of all tokens that stand for it, of ``top``: token -> probability."""
    probs = dict.fromkeys(labels, 0.0)
    for token, probability in top.items():
        label = match_label(token, labels)
        if label is not None:
            probs[label] += probability
    return probs
