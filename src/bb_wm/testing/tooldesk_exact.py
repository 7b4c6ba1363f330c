"""ToolDesk solved exactly: the twin of `bb_wm.worlds.tooldesk`, sharing no code with it.

A state of knowledge is the visible context (clarity, stake, price), the cue and how often each tool
named each intent; tool C and a missing answer teach nothing. All values are expectations over the
true belief, so nothing here is sampled. By symmetry the cue is taken to be intent 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final

INTENTS: Final = 4
CALLS: Final = 4
CUE_RIGHT: Final = (0.40, 0.65, 0.92)
TOOLS: Final = ("A", "B", "C")
SILENCE: Final = {"A": 0.10, "B": 0.25}
RIGHT: Final = {"A": 0.70, "B": 0.95}
UNIT_COST: Final = {"A": 0.05, "B": 0.20, "C": 0.02}
SYMBOLS: Final = 16

Belief = tuple[float, ...]
Counts = tuple[tuple[int, int], ...]  # per intent: times named by A, times named by B
NOTHING: Final[Counts] = ((0, 0),) * INTENTS


@dataclass(frozen=True, slots=True)
class Desk:
    """The visible context: index of clarity, stake, price per unit of tool cost."""

    clarity: int
    stake: float
    price: float

    def cost(self, tool: str) -> float:
        return UNIT_COST[tool] * self.price


DESKS: Final = tuple(Desk(c, s, p) for c in range(3) for s in (1.0, 3.0) for p in (1.0, 3.0))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known at one moment: the desk, the counts of answers, the calls left (cue = 0)."""

    desk: Desk
    counts: Counts
    calls_left: int

    @property
    def belief(self) -> Belief:
        return posterior(self.desk.clarity, 0, self.counts)

    @property
    def stop(self) -> float:
        return stop_value(self.belief, self.desk.stake)

    def after(self, tool: str) -> Iterator[tuple[float, Knowledge]]:
        """Every state of knowledge after one call, with its probability; equal ones joined."""
        left = self.calls_left - 1
        if tool == "C":
            yield 1.0, Knowledge(self.desk, self.counts, left)
            return
        yield SILENCE[tool], Knowledge(self.desk, self.counts, left)
        for intent, probability in enumerate(answer_probabilities(self.belief, tool)):
            counts = _named(self.counts, tool, intent)
            yield (1 - SILENCE[tool]) * probability, Knowledge(self.desk, counts, left)


Gate = Callable[[Knowledge], str | None]  # the tool to call, or None: stop as well as one can


def posterior(clarity: int, cue: int, counts: Counts) -> Belief:
    """P(intent | cue, answers), by Bayes' rule."""
    right = CUE_RIGHT[clarity]
    weights = []
    for intent in range(INTENTS):
        weight = right if intent == cue else (1 - right) / (INTENTS - 1)
        for named, (by_a, by_b) in enumerate(counts):
            weight *= _likelihood("A", intent, named) ** by_a
            weight *= _likelihood("B", intent, named) ** by_b
        weights.append(weight)
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def answer_probabilities(belief: Belief, tool: str) -> Belief:
    """P(tool names intent j | it answers), per j."""
    return tuple(
        math.fsum(belief[k] * _likelihood(tool, k, named) for k in range(INTENTS))
        for named in range(INTENTS)
    )


def stop_value(belief: Belief, stake: float) -> float:
    """max(0, s (3 max b - 2)): commit to the likeliest intent (+s right, -2s wrong) or hand off."""
    return max(0.0, stake * (3.0 * max(belief) - 2.0))


def _likelihood(tool: str, intent: int, named: int) -> float:
    return RIGHT[tool] if intent == named else (1 - RIGHT[tool]) / (INTENTS - 1)


def _named(counts: Counts, tool: str, intent: int) -> Counts:
    """One answer more, in canonical order: the intents that the cue did not name are alike."""
    rows = [list(row) for row in counts]
    rows[intent][0 if tool == "A" else 1] += 1
    done = [(row[0], row[1]) for row in rows]
    return (done[0], *sorted(done[1:]))


# --- values -------------------------------------------------------------------------------------


def value_of(gate: Gate, desk: Desk) -> float:
    """Expected reward of an episode at this desk under the gate."""
    memo: dict[Knowledge, float] = {}

    def value(known: Knowledge) -> float:
        if known not in memo:
            tool = gate(known) if known.calls_left else None
            memo[known] = known.stop if tool is None else _call(known, tool, value)
        return memo[known]

    return value(Knowledge(desk, NOTHING, CALLS))


def mean_value(gate: Gate) -> float:
    """Expected reward of an episode: the mean over the twelve desks."""
    return math.fsum(value_of(gate, desk) for desk in DESKS) / len(DESKS)


def _call(known: Knowledge, tool: str, value: Callable[[Knowledge], float]) -> float:
    future = math.fsum(p * value(after) for p, after in known.after(tool))
    return future - known.desk.cost(tool)


class Lookahead:
    """Optimal values with at most `depth` further calls (4: the optimum; 1: one-call EVSI)."""

    def __init__(self, depth: int = CALLS) -> None:
        self.depth = depth
        self._memo: dict[tuple[Knowledge, int], float] = {}

    def value(self, known: Knowledge, depth: int | None = None) -> float:
        depth = min(self.depth if depth is None else depth, known.calls_left)
        if depth == 0:
            return known.stop
        if (known, depth) not in self._memo:
            asked = max(self.ask_value(known, tool, depth) for tool in TOOLS)
            self._memo[known, depth] = max(known.stop, asked)
        return self._memo[known, depth]

    def ask_value(self, known: Knowledge, tool: str, depth: int | None = None) -> float:
        """Q of calling the tool now and going on as well as `depth` - 1 further calls allow."""
        depth = min(self.depth if depth is None else depth, known.calls_left)
        return _call(known, tool, lambda after: self.value(after, depth - 1))

    def net(self, known: Knowledge, tool: str) -> float:
        """EVSI net of all costs: Q of the call less the value of stopping now."""
        return self.ask_value(known, tool) - known.stop

    def __call__(self, known: Knowledge) -> str | None:
        tool = max(TOOLS, key=lambda name: self.net(known, name))
        return tool if self.net(known, tool) > 1e-12 else None


def one_call_evsi(known: Knowledge, tool: str) -> float:
    """E[max_a U | answer] - max_a E[U] - cost."""
    return _call(known, tool, lambda after: after.stop) - known.stop


def batch_evsi(known: Knowledge, tool: str, count: int) -> float:
    """EVSI of `count` equal calls, all made before anything is decided, net of their costs."""
    spread = {known: 1.0}
    for _ in range(count):
        grown: dict[Knowledge, float] = {}
        for state, weight in spread.items():
            for probability, after in state.after(tool):
                grown[after] = grown.get(after, 0.0) + weight * probability
        spread = grown
    gross = math.fsum(weight * state.stop for state, weight in spread.items()) - known.stop
    return gross - count * known.desk.cost(tool)


def best_batch_evsi(known: Knowledge, tool: str, limit: int = 3) -> float:
    """The largest batch EVSI over n = 1..limit equal calls, as far as calls are left."""
    sizes = range(1, min(limit, known.calls_left) + 1)
    return max(batch_evsi(known, tool, count) for count in sizes)


# --- the gates of the reference table -------------------------------------------------------------


def best_positive(worth: Callable[[Knowledge, str], float]) -> Gate:
    """The gate that asks the tool of the largest worth, if that is positive."""

    def gate(known: Knowledge) -> str | None:
        tool = max(TOOLS, key=lambda name: worth(known, name))
        return tool if worth(known, tool) > 1e-12 else None

    return gate


def always(tool: str, count: int) -> Gate:
    """A gate that calls `tool` `count` times, whatever it learns."""
    return lambda known: tool if known.calls_left > CALLS - count else None


def under_confidence(tool: str, threshold: float) -> Gate:
    """A gate that calls `tool` while the best belief is below `threshold`."""
    return lambda known: tool if max(known.belief) < threshold else None


def entropy(probabilities: Belief) -> float:
    """In nats."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def mutual_information(known: Knowledge, tool: str) -> float:
    """I(answer; intent) in nats."""
    left = math.fsum(p * entropy(after.belief) for p, after in known.after(tool))
    return entropy(known.belief) - left


def answer_entropy(known: Knowledge, tool: str) -> float:
    """Entropy of the tool's answer in nats: what a noisy television has most of."""
    if tool == "C":
        return math.log(SYMBOLS)
    named = answer_probabilities(known.belief, tool)
    return entropy((SILENCE[tool], *((1 - SILENCE[tool]) * p for p in named)))


def latent_evpi(known: Knowledge, tool: str) -> float:
    """What knowing the intent would be worth, taken wrongly for the worth of any tool's answer."""
    return known.desk.stake - known.stop - known.desk.cost(tool)


def _curious(known: Knowledge) -> str | None:
    if max(known.belief) >= 0.9:
        return None
    return max(TOOLS, key=lambda tool: answer_entropy(known, tool))


def _informed(scale: float) -> Gate:
    return best_positive(lambda k, t: scale * mutual_information(k, t) - k.desk.cost(t))


def gates() -> dict[str, Gate]:
    """Every gate of the reference table by its name there."""
    table: dict[str, Gate] = {
        "bayes_optimal": Lookahead(CALLS),
        "myopic_exact_evsi": best_positive(one_call_evsi),
        "two_call_lookahead": Lookahead(2),
        "three_call_lookahead": Lookahead(3),
        "batch_evsi_n3": best_positive(best_batch_evsi),
        "never": lambda known: None,
        "latent_evpi": best_positive(latent_evpi),
        "answer_entropy": _curious,
    }
    for count, tool in product(range(1, CALLS + 1), "AB"):
        table[f"always_{tool}{count}"] = always(tool, count)
    for threshold, tool in product((0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), "AB"):
        table[f"maxprob<{threshold}_{tool}"] = under_confidence(tool, threshold)
    for scale in (0.3, 1.0, 3.0):
        table[f"mutual_info_x{scale}"] = _informed(scale)
    return table


def best_static_per_desk() -> float:
    """Best fixed number of calls of one tool, chosen per visible context."""
    plans = [always(tool, count) for tool in TOOLS for count in range(CALLS + 1)]
    return math.fsum(max(value_of(plan, desk) for plan in plans) for desk in DESKS) / len(DESKS)


@cache
def optimal_value() -> float:
    """J*, the expected reward of the Bayes-optimal gate."""
    return mean_value(Lookahead(CALLS))


@cache
def static_value() -> float:
    """J of the best policy that ignores everything it sees before deciding how often to ask."""
    return max(mean_value(always(tool, n)) for tool in TOOLS for n in range(CALLS + 1))


def normalised_regret(value: float) -> float:
    """NGR = (J* - J) / (J* - J_static): 0 is optimal, 1 the best static policy."""
    best, static = optimal_value(), static_value()
    return (best - value) / (best - static)
