"""How well a gate plays ToolDesk, without sampling noise: every history it can reach is walked.

A play sees only what the world shows (cue, clarity, stake, price, calls and answers) and names an
action for each history. Answers branch with their exact probabilities and rewards are taken in
expectation over the true belief, so the score of a deterministic play is exact, but for the symbols
of tool C, of which `symbols` are drawn per call (they are alike to the exact belief, perhaps not to
a learned one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from bb_wm.errors import ActionError
from bb_wm.testing import tooldesk_exact as exact

HAND_OFF = 7  # actions: 0..2 call tool A, B, C; 3..6 commit to intent 0..3; 7 hand off
SILENT = 1  # answers: 0 none yet; 1 no answer; 2..5 intent 0..3; 6..21 symbol of tool C


@dataclass(frozen=True, slots=True)
class Histories:
    """N visible histories of equal length d: context [N], cue [N], tools [N, d], answers [N, d]."""

    clarity: np.ndarray
    stake: np.ndarray
    price: np.ndarray
    cue: np.ndarray
    tools: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return int(self.cue.shape[0])

    @property
    def calls_left(self) -> int:
        return exact.CALLS - int(self.tools.shape[1])

    def take(self, rows: np.ndarray) -> Histories:
        return Histories(
            self.clarity[rows],
            self.stake[rows],
            self.price[rows],
            self.cue[rows],
            self.tools[rows],
            self.answers[rows],
        )


@dataclass(frozen=True, slots=True)
class Choices:
    """actions [N], and the play's own estimates [N, 3] of what each tool is worth, net of cost.

    Estimates are compared with the exact worth of the same name: `one_call` (EVSI), `batch3` (best
    batch of up to three equal calls), `two_call`, `three_call`, `full` (lookahead). NaN: none.
    """

    actions: np.ndarray
    estimates: Mapping[str, np.ndarray] = field(default_factory=dict)


Play = Callable[[Histories], Choices]


@dataclass(frozen=True, slots=True)
class EVSICalibration:
    """exact = intercept + slope * estimate, by least squares over n (history, tool) pairs, each
    weighted by how often it is met; sign accuracy weighted by |exact|."""

    n: int
    slope: float
    intercept: float
    r2: float
    sign_accuracy: float
    bias: float


@dataclass(frozen=True, slots=True)
class Score:
    """What a play earns and how it earns it."""

    value: float
    regret: float
    calls: Mapping[str, float]
    useless_share: float
    wrong_commits: float
    calibration: Mapping[str, EVSICalibration]


def roots() -> tuple[Histories, np.ndarray]:
    """The 48 first sights (12 desks x 4 cues) and their probabilities."""
    rows = [(d.clarity, d.stake, d.price, cue) for d in exact.DESKS for cue in range(exact.INTENTS)]
    clarity, stake, price, cue = (np.asarray(column) for column in zip(*rows, strict=True))
    empty = np.zeros((len(rows), 0), np.int64)
    start = Histories(clarity, stake, price, cue, empty, empty)
    return start, np.full(len(rows), 1.0 / len(rows))


def named_counts(histories: Histories, row: int) -> exact.Counts:
    """Per intent of the world, how often A and B named it."""
    counts = [[0, 0] for _ in range(exact.INTENTS)]
    for tool, answer in zip(histories.tools[row], histories.answers[row], strict=True):
        if tool < 2 and answer > SILENT:
            counts[int(answer) - 2][int(tool)] += 1
    return tuple((a, b) for a, b in counts)


def knowledge(histories: Histories, row: int) -> exact.Knowledge:
    """The exact state of knowledge of one history, its cue renamed to intent 0."""
    counts = list(named_counts(histories, row))
    cue = counts.pop(int(histories.cue[row]))
    desk = exact.Desk(
        int(histories.clarity[row]), float(histories.stake[row]), float(histories.price[row])
    )
    return exact.Knowledge(desk, (cue, *sorted(counts)), histories.calls_left)


def belief(histories: Histories, row: int) -> exact.Belief:
    """P(intent | history), in the world's own intents."""
    return _posterior(
        int(histories.clarity[row]), int(histories.cue[row]), named_counts(histories, row)
    )


_posterior = cache(exact.posterior)


def score(play: Play, *, symbols: int = 4, seed: int = 0) -> Score:
    """Walks every history the play can reach and weighs it by its exact probability."""
    generator = np.random.default_rng(seed)
    histories, weight = roots()
    tally = _Tally()
    while True:
        choices = play(histories)
        actions = _checked(choices.actions, histories)
        tally.add(histories, weight, actions, choices.estimates)
        asking = np.flatnonzero(actions < len(exact.TOOLS))
        if asking.size == 0:
            return tally.score()
        histories, weight = _branch(histories, weight, actions, asking, symbols, generator)


def exact_play(gate: exact.Gate) -> Play:
    """The play of a gate that knows the true belief, with all exact worths as its estimates."""

    def play(histories: Histories) -> Choices:
        rows = range(len(histories))
        known = [knowledge(histories, row) for row in rows]
        actions = np.asarray([_exact_action(gate, known[r], belief(histories, r)) for r in rows])
        worths = {name: np.asarray([_worths(name, k) for k in known]) for name in WORTHS}
        return Choices(actions, worths if histories.calls_left else {})

    return play


def _exact_action(gate: exact.Gate, known: exact.Knowledge, true: exact.Belief) -> int:
    tool = gate(known) if known.calls_left else None
    if tool is not None:
        return exact.TOOLS.index(tool)
    return len(exact.TOOLS) + int(np.argmax(true)) if known.stop > 0 else HAND_OFF


_two_call, _three_call, _full = (exact.Lookahead(depth) for depth in (2, 3, 4))

WORTHS: Mapping[str, Callable[[exact.Knowledge, str], float]] = {
    "one_call": exact.one_call_evsi,
    "batch3": exact.best_batch_evsi,
    "two_call": _two_call.net,
    "three_call": _three_call.net,
    "full": _full.net,
}


@cache
def _worths(name: str, known: exact.Knowledge) -> tuple[float, ...]:
    if known.calls_left == 0:
        return (float("nan"),) * len(exact.TOOLS)
    return tuple(WORTHS[name](known, tool) for tool in exact.TOOLS)


def _checked(actions: np.ndarray, histories: Histories) -> np.ndarray:
    actions = np.asarray(actions, np.int64)
    lowest = 0 if histories.calls_left else len(exact.TOOLS)
    if actions.shape != (len(histories),) or ((actions < lowest) | (actions > HAND_OFF)).any():
        raise ActionError(
            "actions",
            expected=f"[{len(histories)}] integers in {lowest}..{HAND_OFF}",
            actual=f"{list(actions.shape)}, {np.unique(actions)[:8].tolist()}",
        )
    return actions


def _branch(
    histories: Histories,
    weight: np.ndarray,
    actions: np.ndarray,
    asking: np.ndarray,
    symbols: int,
    generator: np.random.Generator,
) -> tuple[Histories, np.ndarray]:
    """All histories one call later, for the rows that ask."""
    parents: list[int] = []
    answers: list[int] = []
    weights: list[float] = []
    for row in asking:
        tool = exact.TOOLS[actions[row]]
        for answer, probability in _answers(belief(histories, row), tool, symbols, generator):
            parents.append(int(row))
            answers.append(answer)
            weights.append(float(weight[row]) * probability)
    grown = histories.take(np.asarray(parents))
    tools = np.concatenate([grown.tools, actions[np.asarray(parents)][:, None]], axis=1)
    seen = np.concatenate([grown.answers, np.asarray(answers)[:, None]], axis=1)
    return replace(grown, tools=tools, answers=seen), np.asarray(weights)


def _answers(
    true: exact.Belief, tool: str, symbols: int, generator: np.random.Generator
) -> list[tuple[int, float]]:
    """(answer code, probability) of one call."""
    if tool == "C":
        drawn = generator.choice(exact.SYMBOLS, size=min(symbols, exact.SYMBOLS), replace=False)
        return [(SILENT + 1 + exact.INTENTS + int(s), 1.0 / len(drawn)) for s in drawn]
    silence = exact.SILENCE[tool]
    named = exact.answer_probabilities(true, tool)
    return [
        (SILENT, silence),
        *((SILENT + 1 + k, (1 - silence) * p) for k, p in enumerate(named)),
    ]


class _Tally:
    """Running sums over the walk."""

    def __init__(self) -> None:
        self.value = self.wrong = self.steps = 0.0
        self.calls = dict.fromkeys(exact.TOOLS, 0.0)
        self.pairs: dict[str, list[tuple[float, float, float]]] = {}

    def add(
        self,
        histories: Histories,
        weight: np.ndarray,
        actions: np.ndarray,
        estimates: Mapping[str, np.ndarray],
    ) -> None:
        self.steps += float(weight.sum())
        for row, action in enumerate(actions):
            self._act(histories, row, float(weight[row]), int(action))
        for name, columns in estimates.items():
            for row in range(len(histories)):
                self._compare(name, columns[row], knowledge(histories, row), float(weight[row]))

    def _act(self, histories: Histories, row: int, weight: float, action: int) -> None:
        stake, price = float(histories.stake[row]), float(histories.price[row])
        if action < len(exact.TOOLS):
            tool = exact.TOOLS[action]
            self.calls[tool] += weight
            self.value -= weight * exact.UNIT_COST[tool] * price
        elif action < HAND_OFF:
            right = belief(histories, row)[action - len(exact.TOOLS)]
            self.value += weight * stake * (3.0 * right - 2.0)
            self.wrong += weight * (1.0 - right)

    def _compare(
        self, name: str, estimate: np.ndarray, known: exact.Knowledge, weight: float
    ) -> None:
        for guess, true in zip(estimate, _worths(name, known), strict=True):
            if np.isfinite(guess) and np.isfinite(true):
                self.pairs.setdefault(name, []).append((float(guess), true, weight))

    def score(self) -> Score:
        return Score(
            value=self.value,
            regret=exact.normalised_regret(self.value),
            calls=dict(self.calls),
            useless_share=self.calls["C"] / self.steps,
            wrong_commits=self.wrong,
            calibration={name: calibrate(*np.asarray(p).T) for name, p in self.pairs.items()},
        )


def calibrate(
    estimate: np.ndarray, true: np.ndarray, weight: np.ndarray | None = None
) -> EVSICalibration:
    """The line of the true worth on the estimate, weighted; see EVSICalibration."""
    weight = np.ones_like(true) if weight is None else np.asarray(weight, np.float64)
    share = weight / weight.sum()
    x, y = estimate - share @ estimate, true - share @ true
    spread, about = float(share @ (x * x)), float(share @ (y * y))
    slope = float(share @ (x * y)) / spread if spread > 0 else float("nan")
    fitted = about > 0 and spread > 0
    stakes = share * np.abs(true)
    right = (estimate > 0) == (true > 0)
    return EVSICalibration(
        n=int(true.size),
        slope=slope,
        intercept=float(share @ true - slope * (share @ estimate)),
        r2=slope * slope * spread / about if fitted else float("nan"),
        sign_accuracy=float(stakes @ right / stakes.sum()) if stakes.sum() > 0 else float("nan"),
        bias=float(share @ (estimate - true)),
    )
