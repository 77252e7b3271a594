"""Selectors, one file each. Importing this package registers all of them."""

from pipeline.selection import (
    best_of_n,
    chops,
    greedy,
    judge,
    likelihood,
    longest,
    mbr,
    random,
    sample,
)

__all__ = ["best_of_n", "chops", "greedy", "judge", "likelihood", "longest", "mbr", "random", "sample"]
