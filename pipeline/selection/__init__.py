"""Selectors, one file each. Importing this package registers all of them."""

from pipeline.selection import (
    best_of_n,
    chops,
    fusion,
    greedy,
    likelihood,
    longest,
    majority_vote,
    mbr,
    one_pass,
    oracle,
    random,
    sample,
    self_certainty,
    tournament,
    weighted_vote,
    xmbr,
)
from pipeline.selection import (
    pointwise_judge as judge,
)

__all__ = [
    "best_of_n",
    "chops",
    "fusion",
    "greedy",
    "judge",
    "likelihood",
    "longest",
    "majority_vote",
    "mbr",
    "one_pass",
    "oracle",
    "random",
    "sample",
    "self_certainty",
    "tournament",
    "weighted_vote",
    "xmbr",
]
