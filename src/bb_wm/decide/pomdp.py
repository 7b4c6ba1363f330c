"""Exact planning in belief space for a partially observed world whose tables are known.

A twin for everything sampled: it imports numpy only and makes no approximation beyond float64
(beliefs equal to 14 digits are taken for one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bb_wm.errors import ConfigError, ResourceError

Array = NDArray[np.float64]
_DIGITS = 14


class Tables(Protocol):
    """A finite partially observed world. Doing a in s gives reward[a, s] and leads to s', then o.

    transition [A, S, S] is p(s' | s, a), observation [A, S, O] is p(o | a, s'), reward [A, S].
    """

    @property
    def transition(self) -> Array: ...

    @property
    def observation(self) -> Array: ...

    @property
    def reward(self) -> Array: ...


@dataclass(frozen=True, slots=True)
class BeliefGraph:
    """The beliefs that can be reached from the first one, and where every action leads.

    `beliefs` [N, S]; `depth` [N] steps to reach each; `branches[i][a]` lists (probability, belief)
    over the answers that can come; empty for beliefs that were not expanded (at the last depth).
    """

    beliefs: Array
    depth: NDArray[np.int64]
    branches: list[list[list[tuple[float, int]]]]
    closed: bool


def belief_update(tables: Tables, belief: Array, action: int) -> tuple[Array, Array]:
    """p(o) [O] and the beliefs [O, S] after each answer (a row of 0 where p(o) is 0)."""
    arrived = belief @ tables.transition[action]
    joint = arrived[:, None] * tables.observation[action]
    chance = joint.sum(0)
    after = np.divide(joint, chance, out=np.zeros_like(joint), where=chance > 0)
    return chance, after.T


def reachable_beliefs(
    tables: Tables, belief: Array, depth: int | None, *, most: int = 20_000
) -> BeliefGraph:
    """All beliefs within `depth` steps of `belief`; None: until no new one appears.

    Raises ResourceError over `most` beliefs.
    """
    start = _checked(tables, belief)
    beliefs, depths = [start], [0]
    number = {_key(start): 0}
    branches: list[list[list[tuple[float, int]]]] = []
    closed = True
    for here, origin in enumerate(beliefs):  # grows while it is walked, in order of depth
        if depth is not None and depths[here] >= depth:
            branches.append([])
            closed = False
            continue
        outgoing = []
        for action in range(tables.transition.shape[0]):
            chance, after = belief_update(tables, origin, action)
            leads = []
            for probability, updated in zip(chance, after, strict=True):
                if probability <= 0:
                    continue
                key = _key(updated)
                if key not in number:
                    number[key] = len(beliefs)
                    beliefs.append(updated)
                    depths.append(depths[here] + 1)
                leads.append((float(probability), number[key]))
            outgoing.append(leads)
        branches.append(outgoing)
        if len(beliefs) > most:
            raise ResourceError(
                "beliefs",
                expected=f"at most {most} reachable beliefs",
                actual=f"more, at depth {depths[here]}",
                hint="give a shorter horizon.",
            )
    return BeliefGraph(np.stack(beliefs), np.asarray(depths), branches, closed)


def action_values(
    tables: Tables, belief: Array, horizon: int | None, *, discount: float, most: int = 20_000
) -> Array:
    """Q [A]: each action now, then the best for horizon - 1 more steps (for ever when None).

    Q(b, a) = sum_s b(s) r(a, s) + discount * sum_o p(o | b, a) V(b'). For ever needs discount < 1
    and finitely many reachable beliefs.
    """
    if not 0 <= discount <= 1 or (horizon is None and discount == 1):
        raise ConfigError("discount", expected="within [0, 1], < 1 for ever", actual=discount)
    if horizon is not None and horizon < 1:
        raise ConfigError("horizon", expected="at least 1, or None for ever", actual=horizon)
    reach = None if horizon is None else horizon - 1
    graph = reachable_beliefs(tables, belief, reach, most=most)
    rewards = graph.beliefs @ tables.reward.T  # [N, A]
    if horizon is None:
        return np.asarray(_for_ever(graph, rewards, discount)[0])
    values = np.zeros(len(graph.beliefs))
    quality = rewards
    for left in range(1, horizon + 1):
        inside = graph.depth <= horizon - left  # beliefs met with at least `left` steps to go
        quality = _backup(graph, rewards, values, discount, inside if left > 1 else None)
        values = np.where(inside, quality.max(1), values)
    return np.asarray(quality[0])


def belief_value(
    tables: Tables, belief: Array, horizon: int | None, *, discount: float, most: int = 20_000
) -> float:
    """V(b) = max_a Q(b, a), see `action_values`."""
    return float(action_values(tables, belief, horizon, discount=discount, most=most).max())


def _backup(
    graph: BeliefGraph,
    rewards: Array,
    values: Array,
    discount: float,
    inside: NDArray[np.bool_] | None,
) -> Array:
    """One step of dynamic programming; `inside` None: the last step, nothing follows."""
    quality = rewards.copy()
    if inside is None:
        return quality
    for here in np.flatnonzero(inside):
        for action, leads in enumerate(graph.branches[here]):
            quality[here, action] += discount * sum(p * values[there] for p, there in leads)
    return quality


def _for_ever(graph: BeliefGraph, rewards: Array, discount: float) -> Array:
    """Policy iteration: every evaluation is an exact linear solve, so it ends at the optimum."""
    count, actions = rewards.shape
    moves = np.zeros((actions, count, count))
    for here, outgoing in enumerate(graph.branches):
        for action, leads in enumerate(outgoing):
            for probability, there in leads:
                moves[action, here, there] += probability
    policy = rewards.argmax(1)
    rows = np.arange(count)
    while True:
        system = np.eye(count) - discount * moves[policy, rows]
        values = np.linalg.solve(system, rewards[rows, policy])
        quality = rewards + discount * np.einsum("anm,m->na", moves, values)
        # Only a real improvement changes the policy: ties would make it turn in circles.
        better = quality.max(1) > quality[rows, policy] + 1e-11
        if not better.any():
            return np.asarray(quality)
        policy = np.where(better, quality.argmax(1), policy)


def _checked(tables: Tables, belief: Array) -> Array:
    start = np.asarray(belief, np.float64)
    states = tables.transition.shape[1]
    if start.shape != (states,):
        raise ConfigError("belief", expected=[states], actual=list(start.shape))
    if not (np.isfinite(start).all() and (start >= 0).all() and abs(start.sum() - 1) < 1e-9):
        raise ConfigError("belief", expected="probabilities that sum to 1", actual=start.tolist())
    return np.asarray(start / start.sum())


def _key(belief: Array) -> bytes:
    rounded: Array = np.round(belief, _DIGITS) + 0.0  # + 0.0: -0 and 0 are one belief
    return rounded.tobytes()
