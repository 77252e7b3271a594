"""Splits by cluster: translations of one question never lie on both sides."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.hashing import digest


def split_of(cluster: str, shares: Mapping[str, float], seed: int) -> str:
    """The split of a cluster: a hash of its id decides, so that neither order nor number of rows matters.

    Args:
        cluster: the cluster's id.
        shares: split -> share, adding up to 1, in order.
        seed: another seed gives another division.
    """
    place = int(digest("split", seed, cluster, size=8), 16) / 2**64
    total = 0.0
    for name, share in shares.items():
        total += share
        if place < total:
            return name
    return list(shares)[-1]  # the shares add up to a hair below 1
