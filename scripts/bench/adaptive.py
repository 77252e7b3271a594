"""Adaptive N beside the same N for every prompt, in simulation and on stored real pools.

    python scripts/bench/adaptive.py [POOLS.parquet ...] [--uniform 16] [--rounds 4] [--first 4] [--no-simulation]

POOLS come from ``scripts/bench/adaptive_pools.py``; those of docs/recipes/adaptive.md lie in ``scripts/bench/pools``.
Everything is replayed with the decisions of a real run
(:mod:`pipeline.adaptive.decide`): a pool is shuffled, the first round sees its first candidates, and so on, and at the
end both sides choose: by the largest reward, or the most frequent answer (of tied ones, their mean counts). This is
repeated; a prompt's difference is its mean over the shuffles, and the interval (95%, Student's t) is over prompts, of
which each is a cluster of its own.

``equal``: adaptive minus uniform N with the budget of uniform N. ``-25%``: with three quarters of it. ``tokens``: what
adaptive really used, as a share of what uniform N used. ``uniform``: what three quarters of N for every prompt lose
themselves. All in points of 0 to 100: chrF; the candidate's mean token probability (geometric) in percent; the share of
prompts with the right answer, with the model's most frequent answer, or with the law's true mode. The model's most
frequent answer is the one that leads in the second half of a stored pool, of which nothing is drawn: among candidates
that can be drawn, whoever draws more of them would be right by that alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.adaptive.decide import State, decide
from pipeline.adaptive.settings import Adaptive
from pipeline.stats.arrays import Bools, Floats, Ints

_T = {60: 2.001, 100: 1.984, 200: 1.972}


@dataclass
class Pools:
    """P prompts with M candidates each.

    Attributes:
        name: what they are.
        rewards: [P, M] what is maximised, in points; ``None`` = votes.
        tokens: [P, M].
        answers: [P, M] the votes: one number an answer; -1 = none.
        worth: [P, M] what a candidate's answer is worth in points, where votes choose.
    """

    name: str
    rewards: Floats | None
    tokens: Floats
    answers: Ints | None = None
    worth: Floats | None = None

    def shuffled(self, rng: np.random.Generator) -> Pools:
        order = np.argsort(rng.random(self.tokens.shape), axis=1)

        def take(x: np.ndarray | None) -> np.ndarray | None:
            return None if x is None else np.take_along_axis(x, order, 1)

        tokens = take(self.tokens)
        assert tokens is not None
        return Pools(self.name, take(self.rewards), tokens, take(self.answers), take(self.worth))

    def scores(self, mask: Bools) -> Floats:
        """What a decision sees of the candidates in ``mask``."""
        if self.rewards is not None:
            return np.where(mask, self.rewards, np.nan)
        found = np.full(mask.shape, np.nan)
        assert self.answers is not None
        for i, row in enumerate(self.answers):
            seen = row[mask[i] & (row >= 0)]
            counts = dict(zip(*np.unique(seen, return_counts=True), strict=True))
            found[i] = [counts[a] if m and a >= 0 else np.nan for a, m in zip(row, mask[i], strict=True)]
        return found

    def chosen(self, mask: Bools) -> Floats:
        """Points of what is chosen of the candidates in ``mask`` [P]."""
        scores = self.scores(mask)
        if self.rewards is not None:
            return np.nanmax(scores, axis=1)
        assert self.worth is not None
        top = np.where(np.isnan(scores), -1, scores)
        best = (top == top.max(axis=1, keepdims=True)) & (top > 0)
        # Tied answers have equally many candidates each, so the mean over candidates is that over answers.
        return np.where(best, self.worth, 0).sum(axis=1) / np.maximum(best.sum(axis=1), 1)


def play(pools: Pools, settings: Adaptive) -> Bools:
    """The candidates that adaptive N draws of pools in their order [P, M]."""
    size = pools.tokens.shape[1]
    count, budget = np.full(len(pools.tokens), settings.first), None
    mask = np.arange(size) < count[:, None]
    for done in range(1, settings.rounds):
        state = State(pools.scores(mask), np.where(mask, pools.tokens, np.nan), mask, count)
        made = decide(settings, size, pools.rewards is None, state, done, budget)
        budget, count = made.budget, count + made.more
        mask = np.arange(size) < count[:, None]
    return mask


def compare(
    pools: Pools, settings: Adaptive | None, uniform: int, repeats: int, seed: int
) -> tuple[float, float, float]:
    """(mean difference to uniform N, half width of its interval, tokens as a share of uniform N's).

    Args:
        settings: how adaptive N draws; ``None`` = as uniform N with three quarters of it.
    """
    rng = np.random.default_rng(seed)
    differences, spent, base = np.zeros(len(pools.tokens)), 0.0, 0.0
    for _ in range(repeats):
        one = pools.shuffled(rng)
        numbers = np.arange(pools.tokens.shape[1])
        ours = play(one, settings) if settings else np.tile(numbers < 0.75 * uniform, (len(differences), 1))
        theirs = np.tile(numbers < uniform, (len(differences), 1))
        differences += (one.chosen(ours) - one.chosen(theirs)) / repeats
        spent, base = spent + one.tokens[ours].sum(), base + one.tokens[theirs].sum()
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    t = min((abs(p - len(differences)), value) for p, value in _T.items())[1]
    return float(differences.mean()), float(t * error), float(spent / base)


def simulated(rng: np.random.Generator, prompts: int, size: int) -> list[Pools]:
    """Pools from known laws: rewards around 50 with a spread of about 5 points, and votes."""
    mean = rng.normal(50, 12, (prompts, 1))
    various = 5 * np.exp(rng.normal(0, 0.6, (prompts, 1)))
    normal = rng.normal(size=(prompts, size))
    laws: dict[str, tuple[Floats, Floats]] = {
        "normal, various spreads": (various, normal),
        "normal, equal spreads": (np.full((prompts, 1), 5.0), normal),
        "skewed right (exponential)": (various, rng.exponential(size=(prompts, size)) - 1),
        "skewed left (exponential)": (various, 1 - rng.exponential(size=(prompts, size))),
        "bounded (uniform)": (various, np.sqrt(12) * (rng.random((prompts, size)) - 0.5)),
        "half the prompts settled": (various * (rng.random((prompts, 1)) < 0.5), normal),
    }
    lengths = rng.lognormal(4, 0.4, (prompts, 1))
    tokens = np.ceil(lengths * rng.lognormal(-0.03, 0.25, (prompts, size)))
    found = [Pools(name, mean + spread * z, tokens) for name, (spread, z) in laws.items()]
    for name, concentrations in (("votes: easy and hard prompts", (0.3, 30.0)), ("votes: all alike", (3.0, 3.0))):
        strength = np.exp(rng.uniform(*np.log(concentrations), prompts))
        law = np.array([rng.dirichlet(np.full(30, c / 30)) for c in strength])
        answers = np.array([rng.choice(30, size=size, p=p) for p in law])
        worth = 100.0 * (answers == law.argmax(axis=1)[:, None])
        found.append(Pools(name, None, tokens, answers, worth))
    return found


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "pools" else path.stem


def stored(path: str) -> list[Pools]:
    """The pools of a file: by each reward that it has, and by votes where it has answers."""
    table = pq.read_table(path)
    ids = table["prompt_id"].to_pylist()
    prompts = len(set(ids))

    def grid(name: str) -> Floats:
        values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return values.reshape(prompts, -1)

    quality, tokens, name = 100 * grid("quality"), grid("tokens"), _name(Path(path))
    if table["answer"].null_count == len(table):
        return [
            Pools(f"{name}: chrF (oracle)", quality, tokens),
            Pools(f"{name}: token probability", 100 * np.exp(grid("logprob")), tokens),
        ]
    answers = np.array([-1 if a is None else a for a in table["answer"].to_pylist()], np.int64).reshape(prompts, -1)
    half = tokens.shape[1] // 2
    unseen = Pools("", None, tokens[:, half:], answers[:, half:]).scores(
        np.ones((prompts, tokens.shape[1] - half), bool)
    )
    best = np.nan_to_num(unseen) == np.nan_to_num(unseen).max(axis=1, keepdims=True)
    leads = [set(row[top & (row >= 0)]) for row, top in zip(answers[:, half:], best, strict=True)]
    mode = np.array([[100.0 * (a in lead) for a in row] for row, lead in zip(answers[:, :half], leads, strict=True)])
    return [
        Pools(f"{name}: votes, right answers", None, tokens, answers, np.nan_to_num(quality)),
        Pools(f"{name}: votes, most frequent", None, tokens[:, :half], answers[:, :half], mode),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Adaptive N beside uniform N.")
    parser.add_argument("pools", nargs="*")
    parser.add_argument("--uniform", type=int, default=16)
    parser.add_argument("--first", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-simulation", action="store_true")
    args = parser.parse_args()
    every: list[tuple[Pools, int]] = [(p, args.repeats) for path in args.pools for p in stored(path)]
    if not args.no_simulation:
        laws = simulated(np.random.default_rng(args.seed), 200, 2 * args.uniform)
        every += [(pools, max(args.repeats // 3, 1)) for pools in laws]
    results = {}
    print(
        f"{'pools':34}{'equal':>8}{'interval':>18}{'tokens':>9}{'-25%':>8}{'interval':>18}{'tokens':>9}"
        f"{'uniform':>9}{'shuffles':>10}",
        flush=True,
    )
    for pools, repeats in every:
        cells, kept = "", {}
        for share in (1.0, 0.75):
            settings = Adaptive("x", args.first, share * args.uniform, None, args.rounds)
            mean, half, tokens = compare(pools, settings, args.uniform, repeats, args.seed)
            cells += f"{mean:+8.2f}{f'{mean - half:+.2f} to {mean + half:+.2f}':>18}{tokens:9.3f}"
            kept[str(share)] = [round(v, 3) for v in (mean, mean - half, mean + half, tokens)]
        kept["uniform"] = [round(compare(pools, None, args.uniform, repeats, args.seed)[0], 3)]
        cells += f"{kept['uniform'][0]:+9.2f}"
        results[pools.name] = kept
        print(f"{pools.name:34}{cells}{repeats:10}", flush=True)
    print(json.dumps({**vars(args), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
