"""Playing ToolDesk by what a world model imagines: the part of benchmarks/tooldesk.py that decides.

The deciding is the library's own (`bb_wm.decide.asker`, `Gate`); here histories become its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bb_wm.decide import Asker, AskTree, Decision, Evidence, Gate, Ledger, Verdict, record_pair
from bb_wm.decide.evsi.tree import Asked
from bb_wm.imagine import Utility
from bb_wm.rssm import WorldModel
from bb_wm.testing.tooldesk_score import Choices, Histories
from bb_wm.types import Latent
from bb_wm.worlds import tooldesk, tooldesk_asks
from bb_wm.worlds.tooldesk import ACTIONS, CALLS, HAND_OFF, INTENTS, TOOLS

WORTHS = {1: "one_call", 2: "two_call", 3: "three_call", 4: "full"}  # exact worths by depth
GATE = Gate(limit=2.0, max_age=1.0, clock=lambda: 0.0)  # risk: wrong commits, not limited here


class LearnedPlay:
    """Plays ToolDesk by what a world model imagines. `depth` calls are looked ahead (1, 2 or 3)."""

    def __init__(
        self,
        model: WorldModel,
        *,
        depth: int = 2,
        particles: int = 8,
        seed: int = 0,
    ) -> None:
        self.model, self.depth = model, depth
        generator = torch.Generator().manual_seed(seed)
        # Rows of luck, the same for every history: pairs +-x, so that odd errors cancel.
        half = torch.randn(CALLS + 1, (particles + 1) // 2, model.noise_size, generator=generator)
        self.luck = torch.cat([half, -half], dim=1)[:, :particles]
        actions, names = tooldesk_asks.commits()
        self.askers = {
            d: Asker(
                model,
                actions,
                names,
                tooldesk_asks.asks(),
                AskTree(depth=d, draw=True, utility=Utility(abstain=0.0), seed=seed),
                policy="commit",
            )
            for d in {1, depth}
        }
        self.decided = 0

    def __call__(self, histories: Histories) -> Choices:
        latent, seen = self.believe(histories)
        asked = {d: asker.look(latent, seen) for d, asker in self.askers.items()}
        evidence = self.askers[self.depth].evidence(
            latent, seen, observed_at=0.0, asked=asked[self.depth]
        )
        self.decided += len(histories)
        actions = np.asarray([act(decision) for decision in GATE.decide(evidence)])
        if histories.calls_left == 0:
            return Choices(actions, {})
        return Choices(actions, {WORTHS[d]: found.evsi.numpy() for d, found in asked.items()})

    def look(self, histories: Histories, depth: int) -> list[Evidence]:
        """What the gate is told about each history; depth 0: nothing can be asked any more."""
        latent, seen = self.believe(histories)
        none = Asked(*(torch.full((len(histories), TOOLS), -torch.inf) for _ in range(4)))
        asker = self.askers[depth or 1]
        return asker.evidence(latent, seen, observed_at=0.0, asked=None if depth else none)

    def believe(self, histories: Histories) -> tuple[Latent, dict[str, Tensor]]:
        """The belief after each history as particles [N, P], and what was seen last."""
        rows = {
            key: torch.from_numpy(v if v.ndim == 3 else v[..., None])
            for key, v in _rows(histories).items()
        }
        count, particles = len(histories), self.luck.shape[1]
        latent: Latent | None = None
        action: Tensor | None = None
        with torch.no_grad():
            for t in range(histories.tools.shape[1] + 1):
                obs = {k: v[:, t, None].expand(-1, particles, -1) for k, v in rows.items()}
                noise = self.luck[t].expand(count, -1, -1)
                latent = self.model.encode(obs, latent, action, noise=noise)
                if t < histories.tools.shape[1]:
                    done = torch.eye(ACTIONS)[torch.from_numpy(histories.tools[:, t])]
                    action = done[:, None].expand(-1, particles, -1)
        assert latent is not None
        return latent, {key: value[:, -1].clone() for key, value in rows.items()}


def act(decision: Decision) -> int:
    """A verdict as an action of the world: to hold is to hand off."""
    if decision.index is None:
        return HAND_OFF
    if decision.verdict is Verdict.ASK:
        return tooldesk_asks.NAMES.index(str(decision.choice))
    return decision.index + TOOLS


def _rows(histories: Histories) -> dict[str, np.ndarray]:
    """The observations of every row of the histories, [N, d + 1]."""
    count, calls = histories.tools.shape
    levels = np.asarray(tooldesk.LEVELS)
    fixed = {
        "clarity": histories.clarity,
        "cue": histories.cue,
        "price": np.searchsorted(levels, histories.price),
        "stake": np.searchsorted(levels, histories.stake),
    }
    rows = {key: np.repeat(v[:, None], calls + 1, axis=1) for key, v in fixed.items()}
    first = np.zeros((count, 1), np.int64)
    rows["answer"] = np.concatenate([first, histories.answers], axis=1)
    rows["tool"] = np.concatenate([first, histories.tools + 1], axis=1)
    rows["calls_left"] = np.repeat(CALLS - np.arange(calls + 1)[None], count, axis=0)
    named = np.zeros((count, calls + 1, 2 * INTENTS), np.int64)
    for t in range(calls):
        answer, tool = histories.answers[:, t], histories.tools[:, t]
        hit = np.flatnonzero((answer >= tooldesk.FIRST_INTENT) & (answer < tooldesk.FIRST_SYMBOL))
        place = tool[hit] * INTENTS + answer[hit] - tooldesk.FIRST_INTENT
        for later in range(t + 1, calls + 1):
            named[hit, later, place] += 1
    rows["named"] = named
    return rows


# --- realised gain ------------------------------------------------------------------------------


def forced_pairs(play: LearnedPlay, ledger: Ledger, episodes: int, *, seed: int = 0) -> None:
    """Plays the same episodes twice, asking first by lot and not; both go to the ledger.

    After the forced ask a depth-1 play stops as well as it can, a deeper one goes on by its gate:
    what its estimate promised. Rewards are expected under the true belief, chance is paired.
    """
    for episode in range(episodes):
        world = tooldesk.ToolDesk(expected_reward=True)
        obs, _ = world.reset(seed=seed + episode)
        (evidence,) = play.look(_history([obs], []), play.depth)
        pair = record_pair(GATE, ledger, evidence, pair=f"episode {seed + episode}")
        if pair is None:
            continue
        for decision in pair:
            obs, _ = world.reset(seed=seed + episode)
            ledger.outcome(decision.decision_id, _play_on(world, play, obs, act(decision)))


def _play_on(
    world: tooldesk.ToolDesk, play: LearnedPlay, obs: Mapping[str, Any], action: int
) -> float:
    """The return of an episode that begins with this action."""
    rows, done, total = [obs], [action], 0.0
    while True:
        obs, reward, ended, _, _ = world.step(done[-1])
        total += reward
        if ended:
            return total
        rows.append(obs)
        (evidence,) = play.look(_history(rows, done), play.depth if play.depth > 1 else 0)
        done.append(act(GATE.decide(evidence)))


def _history(rows: list[Mapping[str, Any]], done: list[int]) -> Histories:
    levels, first = np.asarray(tooldesk.LEVELS), rows[0]
    return Histories(
        clarity=np.asarray([first["clarity"]]),
        stake=levels[[first["stake"]]],
        price=levels[[first["price"]]],
        cue=np.asarray([first["cue"]]),
        tools=np.asarray(done, np.int64)[None],
        answers=np.asarray([row["answer"] for row in rows[1:]], np.int64)[None],
    )
