"""Tournament: a pairwise knock-out by the judge."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.hashing import hash_rng
from pipeline.judging.verdicts import VERDICT, Judge
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("tournament")
@dataclass
class Tournament(Selector):
    """A knock-out: the winner of every match plays on, the loser is out, the last one left is chosen.

    The bracket: candidates are shuffled by a hash of (run seed, prompt_id, plan). With 2^k <= N < 2^(k+1) of them, the
    first 2(N - 2^k) play a first round, the others have a bye; the 2^k that remain (winners in their order, then the
    byes) meet neighbour by neighbour in k full rounds. N=5: one match, then semifinals, then the final. So
    2(N - 2^k) candidates need k+1 wins and the others k.

    A match is both orders of one pair: more wins decide, a tie or an unreadable verdict is decided by a seeded coin
    and marked ``coin`` in ``detail``. Equal texts are not compared, a coin moves one of them on. When no verdict at all
    is readable, the greedy candidate is taken and marked. O(N) calls; a round-robin would be MBR with this judge.

    Attributes:
        template: name or file of the judge template; its labels mean first, second, tie.
    """

    needs: ClassVar[frozenset[str]] = frozenset({VERDICT})
    cost: ClassVar[str] = "2(N-1) = 8 at N=5"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    template_keys: ClassVar[tuple[str, ...]] = ("template",)
    compares: ClassVar[bool] = True
    template: str = "pairwise_selection"

    async def select(self, pool: Pool) -> Choice:
        judge = pool.judge()
        standing = pool.selectable()
        hash_rng(*pool.key(self.kind)).shuffle(standing)
        matches: list[dict[str, Any]] = []
        playing = 2 * (len(standing) - (1 << (len(standing).bit_length() - 1)))
        while len(standing) > 1:
            playing = playing or len(standing)
            pairs = zip(standing[:playing:2], standing[1:playing:2], strict=True)
            played = await asyncio.gather(*(self._match(pool, judge, a, b) for a, b in pairs))
            standing = [match["winner"] for match in played] + standing[playing:]
            playing = 0
            matches += played
        tally = judge.tally
        detail = {"matches": matches, **tally.detail()}
        if tally.verdicts and tally.invalid == tally.verdicts:
            return Choice(pool.fallback(), detail={**detail, "fallback": "no valid verdict"})
        return Choice(standing[0], detail=detail)

    async def _match(self, pool: Pool, judge: Judge, a: int, b: int) -> dict[str, Any]:
        first, second = (pool.candidates[i].text or "" for i in (a, b))
        utility = await judge.utility(pool.template(self.template), first, second)
        match: dict[str, Any] = {"pair": [a, b], "utility": utility}
        if utility is None or utility == 0.5:
            coin = hash_rng(*pool.key(self.kind, "coin", a, b)).choice((a, b))
            return match | {"winner": coin, "coin": "tie" if utility else "unreadable verdict"}
        return match | {"winner": a if utility > 0.5 else b}
