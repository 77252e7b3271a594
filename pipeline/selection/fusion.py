"""FusioN: a new answer made of all candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import EngineRequestError
from pipeline.core.hashing import derive_seed, hash_rng
from pipeline.engines.base import SamplingParams
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("fusion")
@dataclass
class Fusion(Selector):
    """A fusor model reads prompt and candidates and writes a new answer (``index`` -1) in the language that
    the task asks for.

    The candidates are shown in an order shuffled by a hash of (run seed, prompt_id) and recorded; the fusor is asked
    for the best parts and to discard the worst explicitly. A request that fails or an empty answer falls back to the
    greedy candidate and is marked. O(1) calls of O(N) texts. N=2 already helps, more than 7 gain nothing, small fusors
    are poor. Compare it with the fusor answering alone. The paper's prompt and temperature could not be confirmed.

    Attributes:
        template: name or file of the template.
        temperature: of the fusor.
        max_tokens: longest new answer, in tokens; one that was cut has ``finish_reason`` ``length`` in ``detail``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generate"})
    cost: ClassVar[str] = "1"
    source: ClassVar[str] = "arXiv 2510.00931 (FusioN)"
    template_keys: ClassVar[tuple[str, ...]] = ("template",)
    template: str = "fusion"
    temperature: float = bounded(0.0, ge=0)
    max_tokens: int = bounded(1024, ge=1)

    def check(self, key: str) -> None:
        super().check(key)

    async def select(self, pool: Pool) -> Choice:
        assert pool.engine is not None
        order = pool.selectable()
        if len({pool.candidates[i].text for i in order}) == 1:
            return Choice(order[0], detail={"identical": True})
        hash_rng(*pool.key(self.kind)).shuffle(order)
        answers = [(str(place), pool.candidates[i].text) for place, i in enumerate(order, 1)]
        prompt = pool.judge().render(pool.template(self.template), answers=answers)
        seed = derive_seed(*pool.key(self.kind, "seed")) if self.temperature else None
        params = SamplingParams(temperature=self.temperature, max_tokens=self.max_tokens, seed=seed)
        detail: dict[str, Any] = {"order": order}
        try:
            fused = (await pool.engine.generate(prompt, params)).completions[0]
        except EngineRequestError as error:
            return Choice(pool.fallback(), detail={**detail, "fallback": f"the fusor failed: {error}"[:500]})
        detail |= {"finish_reason": fused.finish_reason, "num_tokens": fused.num_tokens}
        text = fused.text.strip()
        if not text:
            return Choice(pool.fallback(), detail={**detail, "fallback": "the fusor's answer is empty"})
        return Choice(-1, text=text, detail=detail)
