"""Majority vote, weighted vote and oracle against brute force."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Candidate, Row, Tokens
from pipeline.engines.base import Prompt, Scored
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.selection.base import Choice, Pool
from pipeline.selection.majority_vote import MajorityVote
from pipeline.selection.oracle import Oracle
from pipeline.selection.weighted_vote import WeightedVote
from tests.conftest import finish

NUMBERS = ["1", "2", "3", "1,000", "0.5"]
SAME = {"1": ["1.0", "1."], "2": ["two is 2", "$2"], "3": ["03"], "1,000": ["1000", "1 000"], "0.5": ["1/2", ".5"]}


class Rewards(DummyEngine):
    """Rewards by text; a text without one fails."""

    def __init__(self, table: dict[str, float]) -> None:
        super().__init__(DummyEngineConfig(model="test"))
        self.table, self.calls = table, [""][:0]

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        self.calls.append(text)
        if text not in self.table:
            raise EngineRequestError("too long")
        return Scored(self.table[text], Tokens())


def pool(texts: Sequence[str | None], task: str = "math", seed: int = 1, engine: Any = None, **fields: Any) -> Pool:
    reference = fields.pop("reference", None)
    candidates = [Candidate(text=t, plan="x", error=None if t is not None else "bad") for t in texts]
    for name, values in fields.items():
        for candidate, value in zip(candidates, values, strict=True):
            setattr(candidate, name, value)
    row = Row(0, "p", task=task, language="en", reference=reference, candidates=candidates)
    return Pool(row, "x", candidates, run_seed=seed, engine=engine)


def choose(selector: MajorityVote | WeightedVote | Oracle, target: Pool) -> Choice:
    return finish(selector.select(target))


def generated(rng: random.Random) -> tuple[list[str], list[str | None]]:
    """Texts that are all different, and the answer that each of them means; about half of the cases have ties."""
    texts: list[str] = []
    truth: list[str | None] = []
    for i in range(rng.randint(1, 8)):
        if rng.random() < 0.15:
            texts.append(f"No idea, attempt {chr(97 + i)}")
            truth.append(None)
        else:
            number = rng.choice(NUMBERS)
            texts.append(f"Attempt {i}.\nAnswer: {rng.choice([number, *SAME[number]])}")
            truth.append(number)
    return texts, truth


CASES = pytest.mark.parametrize("cases", [250, pytest.param(1000, marks=pytest.mark.slow)])


@CASES
def test_majority_vote_equals_brute_force(cases: int) -> None:
    rng, ties = random.Random(3), 0
    for case in range(cases):
        texts, truth = generated(rng)
        choice = choose(MajorityVote(), pool(texts, seed=case))
        counts = Counter(t for t in truth if t is not None)
        if not counts:
            assert choice.detail == {"fallback": "no final answer"}
            assert choice.index in range(len(texts))
            continue
        winners = {t for t, n in counts.items() if n == max(counts.values())}
        ties += len(winners) > 1
        assert choice.index is not None
        assert truth[choice.index] in winners
        assert choice.score == max(counts.values())
        assert choice.values == [None if t is None else counts[t] for t in truth]
        assert sorted(choice.detail["votes"]) == sorted(counts.values())
    assert ties > cases / 5


@CASES
@pytest.mark.parametrize("softmax", [False, True])
def test_weighted_vote_equals_brute_force(softmax: bool, cases: int) -> None:
    rng, ties = random.Random(4), 0
    for case in range(cases):
        texts, truth = generated(rng)
        rewards = {t: rng.randint(-1, 2) / 2 for t in texts if rng.random() < 0.9}
        engine = Rewards(rewards)
        choice = choose(WeightedVote(engine="reward", softmax=softmax), pool(texts, seed=case, engine=engine))
        assert sorted(engine.calls) == sorted(t for t, a in zip(texts, truth, strict=True) if a is not None)
        sums: dict[str, list[float]] = defaultdict(list)
        for text, answer in zip(texts, truth, strict=True):
            if answer is not None and text in rewards:
                sums[answer].append(rewards[text])
        if not sums:
            assert choice.detail["fallback"] == "no final answer"
            continue
        scale = math.fsum(math.exp(r) for group in sums.values() for r in group)
        totals = {a: math.fsum(math.exp(r) / scale if softmax else r for r in group) for a, group in sums.items()}
        best = max(totals.values())
        winners = {a for a, total in totals.items() if math.isclose(total, best, abs_tol=1e-12)}
        ties += len(winners) > 1
        assert choice.index is not None
        won = truth[choice.index]
        assert won in winners
        assert rewards[texts[choice.index]] == max(sums[won])
        assert choice.score == pytest.approx(best)
        negative = sum(r < 0 for group in sums.values() for r in group)
        assert choice.detail.get("negative_rewards", 0) == (0 if softmax else negative)
    assert ties > cases / (50 if softmax else 20)


@pytest.mark.parametrize("kind", ["majority", "weighted", "softmax"])
def test_tied_answers_and_tied_members_win_equally_often(kind: str) -> None:
    texts = ["Answer: 1", "So 1", "Answer: 2", "So 2", "Answer: 3", "So 3", "Answer: 4"]
    rewards = dict.fromkeys(texts, 0.5)
    selector = MajorityVote() if kind == "majority" else WeightedVote(engine="reward", softmax=kind == "softmax")
    picks: Counter[int | None] = Counter()
    for seed in range(600):
        picks[choose(selector, pool(texts, seed=seed, engine=Rewards(rewards))).index] += 1
    assert set(picks) == set(range(6))
    # 600/6 = 100 each, standard deviation 9.1: five of them
    assert all(abs(n - 100) < 46 for n in picks.values()), picks


def test_the_winning_answer_does_not_depend_on_the_candidates_order() -> None:
    texts = ["Answer: 1", "Answer: 2", "So 1", "So 2", "Answer: 3"]
    for seed in range(50):
        answers = set()
        for shift in range(5):
            turned = texts[shift:] + texts[:shift]
            choice = choose(MajorityVote(), pool(turned, seed=seed))
            assert choice.index is not None
            answers.add(turned[choice.index][-1])
        assert len(answers) == 1


def test_majority_vote_takes_the_likeliest_member_when_all_have_a_likelihood() -> None:
    texts = ["Answer: 1", "Answer: 2", "So 1", "1"]
    fields = {"logprob": [-8.0, -0.1, -9.0, -7.0], "num_tokens": [4, 4, 9, 2]}
    for seed in range(20):
        assert choose(MajorityVote(), pool(texts, seed=seed, **fields)).index == 2  # -1 a token
    fields["logprob"][0] = None  # type: ignore[call-overload]
    assert {choose(MajorityVote(), pool(texts, seed=seed, **fields)).index for seed in range(60)} == {0, 2, 3}


def test_failed_and_evidence_candidates_neither_vote_nor_win() -> None:
    texts = ["Answer: 1", "Answer: 1", "Answer: 1", None, "Answer: 2"]
    origins = ["evidence", "evidence", "evidence", "sample", "sample"]
    engine = Rewards({"Answer: 1": 9.0, "Answer: 2": 0.1})
    for selector in (MajorityVote(), WeightedVote(engine="reward"), Oracle()):
        assert choose(selector, pool(texts, engine=engine, origin=origins, reference="1")).index == 4
    assert engine.calls == ["Answer: 2"]


def test_open_answers_and_failed_rewards_fall_back_to_greedy_marked() -> None:
    origins = ["sample", "greedy", "sample"]
    choice = choose(MajorityVote(), pool(["1", "2", "1"], task="open", origin=origins))
    assert (choice.index, choice.detail) == (1, {"fallback": "no final answer"})
    choice = choose(WeightedVote(engine="r"), pool(["1", "2", "1"], engine=Rewards({}), origin=origins))
    assert choice.index == 1
    assert choice.detail == {"fallback": "no final answer", "failed": 2, "failure": "too long"}


def test_negative_rewards_count_against_agreement_unless_softmax() -> None:
    texts = ["Answer: 1", "So 1", "1", "Answer: 2"]
    engine = Rewards({"Answer: 1": -1.0, "So 1": -1.0, "1": -0.9, "Answer: 2": -2.0})
    raw = choose(WeightedVote(engine="r"), pool(texts, engine=engine))
    assert (raw.index, raw.detail["negative_rewards"]) == (3, 4)
    assert choose(WeightedVote(engine="r", softmax=True), pool(texts, engine=engine)).index == 2
    with pytest.raises(ConfigError, match="engine"):
        check_values(WeightedVote(), "selectors.weighted_vote")


def test_oracle_takes_the_best_by_the_reference() -> None:
    choice = choose(Oracle(), pool(["Answer: 3", "Answer: 18", "?"], reference="18"))
    assert (choice.index, choice.score, choice.values) == (1, 1.0, [0.0, 1.0, 0.0])
    picks = {choose(Oracle(), pool(["18", "3", "So 18"], seed=s, reference="18")).index for s in range(40)}
    assert picks == {0, 2}
    texts = ["a dog", "the cat sat", "the cat sat on the mat"]
    choice = choose(Oracle(), pool(texts, task="translation", reference="the cat sat on a mat"))
    assert choice.index == 2
    assert choice.score is not None and 0 < choice.score < 1


@pytest.mark.parametrize(("task", "reference"), [("math", None), ("open", "18"), ("math", "unknown")])
def test_oracle_without_a_reference_falls_back_marked(task: str, reference: str | None) -> None:
    choice = choose(Oracle(), pool(["3", "18"], task=task, reference=reference, origin=["sample", "greedy"]))
    assert (choice.index, choice.detail) == (1, {"fallback": "nothing to verify against"})
