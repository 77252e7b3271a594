"""Adaptive N beside the same N for every prompt, in simulation and on stored real pools.

    python scripts/bench/adaptive.py [POOLS.parquet ...] [--uniform 16] [--rounds 4] [--first 4] [--repeats 10]
        [--prompts 200] [--seed 1] [--known] [--no-simulation] [--votes]
    python scripts/bench/adaptive.py --languages [--prompts 1000]

POOLS come from ``scripts/bench/adaptive_pools.py``; those of docs/recipes/adaptive.md lie in ``scripts/bench/pools``.
Everything is replayed with the decisions of a real run
(:mod:`pipeline.sampling.adaptive.decide`): a pool is shuffled, the first round sees its first candidates, and so
on, and at the end both sides choose: by the largest reward, or the most frequent answer (of tied ones, their mean
counts). This is repeated; a prompt's difference is its mean over the shuffles, and the interval (95%, Student's t) is
over prompts, of which each is a cluster of its own.

``equal``: adaptive minus uniform N with the budget of uniform N. ``-25%``: with three quarters of it. ``tokens``: what
adaptive really used, as a share of what uniform N used. ``uniform``: what three quarters of N for every prompt lose
themselves. ``known`` (rewards, with ``--known``): as ``-25%``, for who knows every prompt's law; for stored pools that
is all their candidates', which is more than could ever be known. ``--votes``: simulated votes, too. ``--languages``:
instead of all this, three languages of one law whose answers take 1, 1.5 and 3 times as many tokens, dealt to by gain
per token and within languages (``adaptive.fair``).

All in points of 0 to 100: chrF; where the mean token log-probability decides, its exponential in percent; the share of
prompts with the right answer, with the model's most frequent answer, or with the law's true mode. The model's most
frequent answer is the one that leads in the second half of a stored pool, of which nothing is drawn: among candidates
that can be drawn, whoever draws more of them would be right by that alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t as student

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.sampling.adaptive.decide import State, deal_out, decide, lengths
from pipeline.sampling.plans import Adaptive


@dataclass
class Pools:
    """P prompts with M candidates each.

    Attributes:
        name: what they are.
        rewards: [P, M] what is maximised; ``None`` = votes.
        tokens: [P, M].
        answers: [P, M] the votes: one number an answer; -1 = none.
        worth: [P, M] what a candidate is worth in points; ``None`` = its reward.
        highest: the largest reward that there can be.
        law: [P, K] rewards that stand for each prompt's law; ``None`` = the pool's own.
        language: of every prompt.
    """

    name: str
    rewards: Floats | None
    tokens: Floats
    answers: Ints | None = None
    worth: Floats | None = None
    highest: float = np.inf
    law: Floats | None = None
    language: list[str] | None = None

    def shuffled(self, rng: np.random.Generator) -> Pools:
        order = np.argsort(rng.random(self.tokens.shape), axis=1)

        def take(x: np.ndarray | None) -> np.ndarray | None:
            return None if x is None else np.take_along_axis(x, order, 1)

        moved = {name: take(getattr(self, name)) for name in ("rewards", "tokens", "answers", "worth")}
        return replace(self, **moved)

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
            worth = self.rewards if self.worth is None else self.worth
            best = np.nanargmax(scores, axis=1)
            return np.take_along_axis(worth, best[:, None], axis=1)[:, 0]
        assert self.worth is not None
        top = np.where(np.isnan(scores), -1, scores)
        best = (top == top.max(axis=1, keepdims=True)) & (top > 0)
        # Tied answers have equally many candidates each, so the mean over candidates is that over answers.
        return np.where(best, self.worth, 0).sum(axis=1) / np.maximum(best.sum(axis=1), 1)


def play(pools: Pools, settings: Adaptive) -> Bools:
    """The candidates that adaptive N draws of pools in their order [P, M]."""
    size = pools.tokens.shape[1]
    count, budgets = np.full(len(pools.tokens), settings.first), None
    mask = np.arange(size) < count[:, None]
    for done in range(1, settings.rounds):
        state = State(pools.scores(mask), np.where(mask, pools.tokens, np.nan), mask, count, pools.language)
        made = decide(settings, size, pools.rewards is None, state, done, budgets, pools.highest)
        budgets, count = made.budgets, count + made.more
        mask = np.arange(size) < count[:, None]
    return mask


def play_known(pools: Pools, settings: Adaptive) -> Bools:
    """The same by whoever knows every prompt's law and mean length [P, M]."""
    assert pools.rewards is not None
    law = np.sort(pools.rewards if pools.law is None else pools.law, axis=1)
    share = np.arange(law.shape[1] + 1) / law.shape[1]
    size, count = pools.tokens.shape[1], np.full(len(law), settings.first)
    expected = lengths(pools.tokens)
    budget = (settings.mean_n or 0.0) * expected.mean.sum()
    for done in range(1, settings.rounds):
        mask = np.arange(size) < count[:, None]
        above = np.maximum(law - np.nanmax(pools.scores(mask), axis=1)[:, None], 0)
        gains = np.stack([above @ np.diff(share**m) for m in range(1, size + 1)], axis=1)
        now = (budget - pools.tokens[mask].sum()) / (settings.rounds - done)
        count = count + deal_out(gains, size - count, expected, now)
    return np.arange(size) < count[:, None]


def compare(
    pools: Pools, settings: Adaptive | None, uniform: int, repeats: int, seed: int, known: bool = False
) -> tuple[float, float, float]:
    """(mean difference to uniform N, half width of its interval, tokens as a share of uniform N's).

    Args:
        settings: how adaptive N draws; ``None`` = as uniform N with three quarters of it.
        known: whether every prompt's law is.
    """
    rng = np.random.default_rng(seed)
    differences, spent, base = np.zeros(len(pools.tokens)), 0.0, 0.0
    for _ in range(repeats):
        one = pools.shuffled(rng)
        numbers = np.arange(pools.tokens.shape[1])
        same, player = (len(differences), 1), play_known if known else play
        ours = player(one, settings) if settings else np.tile(numbers < 0.75 * uniform, same)
        theirs = np.tile(numbers < uniform, same)
        differences += (one.chosen(ours) - one.chosen(theirs)) / repeats
        spent, base = spent + one.tokens[ours].sum(), base + one.tokens[theirs].sum()
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    t = student.ppf(0.975, len(differences) - 1)
    return float(differences.mean()), float(t * error), float(spent / base)


def simulated(rng: np.random.Generator, prompts: int, size: int, votes: bool) -> list[Pools]:
    """Pools from known laws: rewards around 50 with a spread of about 5 points, and votes where they are asked for."""
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
    length, around = rng.normal(size=(prompts, 1)), rng.lognormal(-0.03, 0.25, (prompts, size))
    tokens, mixed = (np.ceil(np.exp(m + sd * length) * around) for m, sd in ((4.0, 0.4), (3.5, 0.8)))
    found = [Pools(name, mean + spread * z, tokens) for name, (spread, z) in laws.items()]
    for pools, (spread, z) in zip(found, laws.values(), strict=True):
        pools.law = mean + spread * np.quantile(z, (np.arange(1000) + 0.5) / 1000)  # prompts differ in these two alone
    found.insert(1, replace(found[0], name="short and long answers", tokens=mixed))
    laws_of_votes = {"votes: easy and hard prompts": (0.3, 30.0), "votes: all alike": (3.0, 3.0)} if votes else {}
    for name, concentrations in laws_of_votes.items():
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
            Pools(f"{name}: chrF (oracle)", quality, tokens, highest=100.0),
            Pools(f"{name}: likelihood", grid("logprob"), tokens, None, 100 * np.exp(grid("logprob")), highest=0.0),
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


COSTS = {"cheap": 1.0, "middling": 1.5, "dear": 3.0}
"""Language -> tokens of its answers, as a multiple."""


def languages(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Candidates a prompt and points against uniform N by language, without and with ``adaptive.fair``."""
    rng = np.random.default_rng(args.seed)
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'dealt out':22}{'language':>10}{'tokens a candidate':>20}{'candidates':>12}{'points':>9}{'interval':>18}")
    for fair in (None, "language"):
        rng = np.random.default_rng(args.seed)
        pools = simulated(rng, args.prompts, 2 * args.uniform, votes=False)[0]
        spoken = np.array(list(COSTS))[np.arange(args.prompts) % len(COSTS)]
        dear = np.array([COSTS[name] for name in spoken])[:, None]
        pools = replace(pools, tokens=np.ceil(pools.tokens * dear), language=spoken.tolist(), law=None)
        settings = Adaptive("x", args.first, args.uniform, None, args.rounds, fair)
        differences, counts = np.zeros(args.prompts), np.zeros(args.prompts)
        for _ in range(args.repeats):
            one = pools.shuffled(rng)
            ours = play(one, settings)
            theirs = np.tile(np.arange(2 * args.uniform) < args.uniform, (args.prompts, 1))
            differences += (one.chosen(ours) - one.chosen(theirs)) / args.repeats
            counts += ours.sum(axis=1) / args.repeats
        name = fair or "gain per token"
        found[name] = {}
        for language in (*COSTS, "all"):
            mine = np.full(args.prompts, True) if language == "all" else spoken == language
            mean, n = float(differences[mine].mean()), int(mine.sum())
            half = float(student.ppf(0.975, n - 1) * differences[mine].std(ddof=1) / np.sqrt(n))
            cost, drawn = float(pools.tokens[mine].mean()), float(counts[mine].mean())
            found[name][language] = [round(v, 3) for v in (cost, drawn, mean, mean - half, mean + half)]
            interval = f"{mean - half:+.2f} to {mean + half:+.2f}"
            print(f"{name:22}{language:>10}{cost:20.0f}{drawn:12.1f}{mean:+9.2f}{interval:>18}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Adaptive N beside uniform N.")
    parser.add_argument("pools", nargs="*")
    parser.add_argument("--uniform", type=int, default=16)
    parser.add_argument("--first", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--votes", action="store_true")
    parser.add_argument("--prompts", type=int, default=200, help="of each simulated pool")
    parser.add_argument("--no-simulation", action="store_true")
    parser.add_argument("--languages", action="store_true", help="adaptive.fair, and nothing else")
    args = parser.parse_args()
    if args.languages:
        print(json.dumps({**vars(args), "results": languages(args)}))
        return 0
    every: list[tuple[Pools, int]] = [(p, args.repeats) for path in args.pools for p in stored(path)]
    if not args.no_simulation:
        laws = simulated(np.random.default_rng(args.seed), args.prompts, 2 * args.uniform, args.votes)
        every += [(pools, max(args.repeats // 3, 1)) for pools in laws]
    results = {}
    print(
        f"{'pools':34}{'equal':>8}{'interval':>18}{'tokens':>9}{'-25%':>8}{'interval':>18}{'tokens':>9}"
        f"{'uniform':>9}{'known':>9}{'shuffles':>10}",
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
        if args.known and pools.rewards is not None:
            kept["known"] = [round(v, 3) for v in compare(pools, settings, args.uniform, repeats, args.seed, True)]
        cells += f"{kept['known'][0]:+9.2f}" if "known" in kept else f"{'-':>9}"
        results[pools.name] = kept
        print(f"{pools.name:34}{cells}{repeats:10}", flush=True)
    print(json.dumps({**vars(args), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
