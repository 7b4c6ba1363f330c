"""Playing ToolDesk by what a world model imagines: the part of benchmarks/tooldesk.py that decides.

Only the tools' interface is given, their prices and what they may answer. Tools change nothing
here, so the worth of a call is what reading its answer adds: info = V_read - V_blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bb_wm.decide import AskEvidence, Decision, Evidence, Gate, Ledger, Verdict, record_pair
from bb_wm.rssm import WorldModel
from bb_wm.testing.tooldesk_score import Choices, Histories
from bb_wm.types import Latent
from bb_wm.worlds import tooldesk
from bb_wm.worlds.tooldesk import ACTIONS, CALLS, HAND_OFF, INTENTS, TOOLS

ANSWERS = (range(1, 6), range(1, 6), range(6, 22))  # what each tool may answer
NAMES = {1: "one_call", 2: "two_call", 3: "three_call", 4: "full"}  # exact worths by depth
GATE = Gate(limit=2.0, max_age=1.0, clock=lambda: 0.0)  # risk: wrong commits, not limited here


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen in N states: the keys of the world's table, [N] or [N, 8]."""

    obs: Mapping[str, np.ndarray]

    def after(self, tool: int, answers: range) -> Seen:
        """Each state after each answer of the tool: [N * K]."""
        count = self.obs["cue"].shape[0]
        obs = {key: np.repeat(value, len(answers), axis=0) for key, value in self.obs.items()}
        said = np.tile(np.asarray(answers), count)
        obs["answer"] = said
        obs["tool"] = np.full_like(said, tool + 1)
        obs["calls_left"] = obs["calls_left"] - 1
        named = (said >= tooldesk.FIRST_INTENT) & (said < tooldesk.FIRST_SYMBOL)
        rows = np.flatnonzero(named)
        obs["named"] = obs["named"].copy()
        obs["named"][rows, tool * INTENTS + said[rows] - tooldesk.FIRST_INTENT] += 1
        return Seen(obs)

    def tensors(self) -> dict[str, Tensor]:
        return {
            key: torch.from_numpy(value if value.ndim == 2 else value[:, None])
            for key, value in self.obs.items()
        }

    @property
    def price(self) -> np.ndarray:
        return np.asarray(tooldesk.LEVELS)[self.obs["price"]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Worth of each tool in N states: net of its price [N, 3], its standard error, gross info."""

    net: np.ndarray
    error: np.ndarray
    info: np.ndarray


class LearnedPlay:
    """Plays ToolDesk by what a world model imagines. `depth` calls are looked ahead (1 or 2, 3)."""

    def __init__(
        self,
        model: WorldModel,
        *,
        depth: int = 2,
        samples: int = 128,
        inner: int = 32,
        seed: int = 0,
    ) -> None:
        self.model, self.depth = model, depth
        generator = torch.Generator().manual_seed(seed)
        # the same luck in every state: pairs +-x, so that odd errors cancel
        half = torch.randn(max(samples, inner) // 2, model.noise_size, generator=generator)
        self.noise = torch.stack([half, -half], dim=1).reshape(-1, model.noise_size)
        self.samples, self.inner = samples, inner
        self.decided = 0

    def __call__(self, histories: Histories) -> Choices:
        evidence, far = self.look(histories, self.depth)
        self.decided += len(histories)
        actions = np.asarray([act(decision) for decision in GATE.decide(evidence)])
        estimates = {} if far is None else {NAMES[self.depth]: far.net}
        if far is not None and self.depth > 1:
            one = self.look(histories, 1)[1]
            estimates = estimates if one is None else {"one_call": one.net, **estimates}
        return Choices(actions, estimates)

    def believe(self, histories: Histories) -> tuple[Latent, Seen]:
        """The belief after each history, by filtering its rows, and what was seen last."""
        rows = _rows(histories)
        count, steps = len(histories), histories.tools.shape[1] + 1
        action = np.zeros((count, steps, ACTIONS), np.float32)
        for t in range(steps - 1):
            action[np.arange(count), t, histories.tools[:, t]] = 1.0
        none = np.zeros((count, steps), np.float32)
        batch = {
            "obs": {k: v if v.ndim == 3 else v[..., None] for k, v in rows.items()},
            "action": action,
            "reward": none,
            "safety": none,
            "terminated": none > 0,
            "is_first": np.broadcast_to(np.arange(steps) == 0, (count, steps)).copy(),
            "valid": none == 0,
        }
        latents = self.model.filter(batch)
        return latents[:, -1], Seen({key: value[:, -1] for key, value in rows.items()})

    def commits(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Predicted reward and risk of each commit, [*batch, 4]."""
        action = torch.eye(ACTIONS)[TOOLS : TOOLS + INTENTS]
        wide = latent.expand(INTENTS)
        after = self.model.step(wide, action.expand(*wide.batch_shape, ACTIONS))
        return self.model.predict_reward(after), self.model.predict_safety(after)

    def ask(self, latent: Latent, seen: Seen, depth: int, samples: int) -> Asked:
        """Every tool's worth with at most `depth` calls in all, the first one included."""
        base = self.commits(latent)[0]
        columns = [self._ask_one(latent, seen, tool, depth, samples, base) for tool in range(TOOLS)]
        net, error, info = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        return Asked(net, error, info)

    def _ask_one(
        self, latent: Latent, seen: Seen, tool: int, depth: int, samples: int, base: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V_read = sum_o p(o) max_a U(a | o), p(o) the mean over imagined z of p(o | h, z).

        The tools change nothing, so the effect of the call is zero and info = V_read - V_blind,
        both under the same p(o): what is wrong with p(o) alike in both cancels.
        """
        answers = ANSWERS[tool]
        count, kinds = latent.batch_shape[0], len(answers)
        after = seen.after(tool, answers)
        said = after.tensors()
        probability, h = self._predictive(latent, said, tool, samples, count, kinds)
        read = self.model.condition(_repeat(h, kinds), said)
        worth = self.commits(read)[0].reshape(count, kinds, INTENTS)
        best = worth.amax(-1).clamp(min=0.0)
        if depth > 1:
            further = self._further(read, after, depth - 1)
            best = best + further.reshape(count, kinds)
        values = (probability * best[:, None]).sum(-1)  # [N, samples]
        blind = (probability.mean(1)[..., None] * worth).sum(1).amax(-1).clamp(min=0.0)
        info = values.mean(1) - blind
        pairs = values.reshape(count, -1, 2).mean(-1)
        error = pairs.std(1) / pairs.shape[1] ** 0.5
        cost = seen.price * tooldesk.COST[tool]
        return info.numpy() - cost, error.numpy(), info.numpy()

    def _predictive(
        self,
        latent: Latent,
        said: dict[str, Tensor],
        tool: int,
        samples: int,
        count: int,
        kinds: int,
    ) -> tuple[Tensor, Latent]:
        """p(o | z_i) of the tool's answers [N, samples, K], and the latent after the call."""
        action = torch.eye(ACTIONS)[tool].expand(count, samples, ACTIONS)
        noise = self.noise[:samples].expand(count, samples, -1)
        imagined = self.model.step(latent.expand(samples), action, noise)
        # decoded once per z: K answers are broadcast against [N, samples, 1]
        shown = {key: value.reshape(count, 1, kinds, -1) for key, value in said.items()}
        probability = torch.softmax(self.model.log_likelihood(imagined.expand(1), shown), dim=-1)
        return probability, imagined[:, 0]

    def _further(self, latent: Latent, seen: Seen, depth: int) -> Tensor:
        """What going on asking is worth after an answer, at least nothing."""
        pieces = []
        for part in np.array_split(
            np.arange(latent.batch_shape[0]), max(1, len(seen.price) // 512)
        ):
            some = Seen({key: value[part] for key, value in seen.obs.items()})
            asked = self.ask(latent[torch.from_numpy(part)], some, depth, self.inner)
            pieces.append(asked.net.max(axis=1).clip(min=0.0))
        return torch.from_numpy(np.concatenate(pieces).astype(np.float32))

    def look(self, histories: Histories, depth: int) -> tuple[list[Evidence], Asked | None]:
        """What the gate is told about each history."""
        with torch.no_grad():
            latent, seen = self.believe(histories)
            worth, risk = self.commits(latent)
            depth = min(depth, histories.calls_left)
            asked = self.ask(latent, seen, depth, self.samples) if depth else None
        rows = range(len(histories))
        return [_evidence(worth[r].numpy(), risk[r].numpy(), asked, r) for r in rows], asked


def act(decision: Decision) -> int:
    """A verdict as an action of the world: to hold is to hand off."""
    if decision.index is None:
        return HAND_OFF
    return decision.index + (0 if decision.verdict is Verdict.ASK else TOOLS)


def _evidence(worth: np.ndarray, risk: np.ndarray, asked: Asked | None, row: int) -> Evidence:
    return Evidence.of_arrays(
        utilities=worth,
        risks=risk,
        risk_bounds=risk,
        names=[f"commit {intent}" for intent in range(INTENTS)],
        hold_utility=0.0,
        horizon=CALLS + 1,
        observed_at=0.0,
        policy="commit",
        asks=() if asked is None else _asks(asked, row),
    )


def _asks(asked: Asked, row: int) -> tuple[AskEvidence, ...]:
    return tuple(
        AskEvidence(
            "ABC"[tool],
            evsi=float(asked.net[row, tool]),
            lower=float(asked.net[row, tool] - 1.96 * asked.error[row, tool]),
            upper=float(asked.net[row, tool] + 1.96 * asked.error[row, tool]),
            risk=0.0,
            risk_bound=0.0,
            standard_error=float(asked.error[row, tool]),
            info=float(asked.info[row, tool]),
        )
        for tool in range(TOOLS)
    )


def _repeat(latent: Latent, count: int) -> Latent:
    """[N] -> [N * count], each row `count` times."""
    return latent.expand(count).flatten()


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
        (evidence,), _ = play.look(_history([obs], []), play.depth)
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
        (evidence,), _ = play.look(_history(rows, done), play.depth if play.depth > 1 else 0)
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
