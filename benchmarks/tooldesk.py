"""A learned gate on ToolDesk beside the exact ones: python -m benchmarks.tooldesk --help.

The default model learns from episodes of a random play, sampled rewards only. It then plays: at
every history the worth of each tool is summed over its possible answers as the model predicts them
(one call, or looking one call further ahead), and `Gate` decides ACT (commit), ASK or HOLD (hand
off). The score is exact: every history the gate can reach is walked, rewards are expected under the
true belief (`bb_wm.testing.tooldesk_score`). Only the tools' interface is given to the gate, their
prices and what they may answer; how often they are right, or that C tells nothing, is learned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bb_wm.config import Categorical, WorldModelConfig
from bb_wm.decide import AskEvidence, Evidence, Gate, Verdict
from bb_wm.rssm import WorldModel
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing.tooldesk_score import Choices, Histories, Score, score
from bb_wm.types import Latent
from bb_wm.worlds import tooldesk
from bb_wm.worlds.tooldesk import ACTIONS, CALLS, HAND_OFF, INTENTS, TOOLS, Desks

ANSWERS = (range(1, 6), range(1, 6), range(6, 22))  # what each tool may answer
GATE = Gate(limit=2.0, max_age=1.0, clock=lambda: 0.0)  # risk: wrong commits, not limited here


# --- learning -------------------------------------------------------------------------------------


def batch_of(desks: Desks, rows: np.ndarray) -> dict[str, Any]:
    """Some of the episodes as the mapping that `WorldModel.update` takes."""
    steps = np.arange(CALLS + 2)
    length = desks.length[rows, None]
    return {
        "obs": {k: v[rows] if v.ndim == 3 else v[rows][..., None] for k, v in desks.obs.items()},
        "action": desks.flat_action[rows],
        "reward": desks.reward[rows],
        "safety": desks.safety[rows],
        "terminated": steps == length - 1,
        "is_first": np.broadcast_to(steps == 0, (rows.size, CALLS + 2)).copy(),
        "valid": steps < length,
    }


def train(
    model: WorldModel, desks: Desks, *, seconds: float, updates: int, batch: int, seed: int
) -> float:
    """Updates in shuffled passes until either limit; gives the seconds used."""
    generator = np.random.default_rng(seed)
    started = time.monotonic()
    while True:
        order = generator.permutation(len(desks))
        for first in range(0, len(desks) - batch + 1, batch):
            used = time.monotonic() - started
            if model.updates >= updates or used > seconds:
                return used
            part = take(desks, order[first : first + batch])
            loss, metrics = model.update(batch_of(part, np.arange(batch)))
            if model.updates % 500 == 0:
                print(
                    f"  update {model.updates}: loss {loss:.4f}, reward "
                    f"{metrics.get('reward', float('nan')):.4f}, {used:.0f} s",
                    flush=True,
                )


def take(desks: Desks, rows: np.ndarray) -> Desks:
    return Desks(
        {key: value[rows] for key, value in desks.obs.items()},
        desks.action[rows],
        desks.reward[rows],
        desks.safety[rows],
        desks.length[rows],
    )


# --- asking and playing ---------------------------------------------------------------------------


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
        with torch.no_grad():
            latent, seen = self.believe(histories)
            worth, risk = self.commits(latent)
            calls = histories.calls_left
            one = self.ask(latent, seen, 1, self.samples) if calls else None
            far = one
            if calls >= 2 and self.depth >= 2:
                far = self.ask(latent, seen, min(self.depth, calls), self.samples)
        actions = self.decide(worth.numpy(), risk.numpy(), far)
        self.decided += len(histories)
        estimates = {} if one is None else {"one_call": one.net}
        if far is not None and self.depth == 2:
            estimates["two_call"] = far.net
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

    def decide(self, worth: np.ndarray, risk: np.ndarray, asked: Asked | None) -> np.ndarray:
        """The gate's verdict of each state as an action of the world."""
        actions = np.empty(len(worth), np.int64)
        for row in range(len(worth)):
            asks = () if asked is None else tuple(_evidence(asked, row))
            decision = GATE.decide(
                Evidence.of_arrays(
                    utilities=worth[row],
                    risks=risk[row],
                    risk_bounds=risk[row],
                    hold_utility=0.0,
                    horizon=self.depth + 1,
                    observed_at=0.0,
                    policy="commit",
                    asks=asks,
                )
            )
            place = 0 if decision.index is None else decision.index
            actions[row] = {
                Verdict.ASK: place,
                Verdict.ACT: TOOLS + place,
                Verdict.HOLD: HAND_OFF,
            }[decision.verdict]
        return actions


def _evidence(asked: Asked, row: int) -> list[AskEvidence]:
    return [
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
    ]


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


# --- the table ------------------------------------------------------------------------------------

SHOWN = (
    ("bayes_optimal", "exact optimum"),
    ("two_call_lookahead", "exact two-call lookahead"),
    ("batch_evsi_n3", "exact batch EVSI, n <= 3"),
    ("myopic_exact_evsi", "exact one-call EVSI"),
    ("maxprob<0.9_B", "best confidence threshold"),
    ("always_A4", "best static policy"),
    ("never", "never ask"),
    ("latent_evpi", "latent EVPI"),
)


def exact_lines() -> list[str]:
    table = exact.gates()
    lines = []
    for name, title in SHOWN:
        value = exact.mean_value(table[name])
        lines.append(f"{title:<34}{value:9.4f}{exact.normalised_regret(value):8.3f}")
    return lines


def learned_lines(title: str, found: Score) -> list[str]:
    lines = [
        f"{title:<34}{found.value:9.4f}{found.regret:8.3f}   C in {found.useless_share:.2%} of "
        f"steps, calls A {found.calls['A']:.2f} B {found.calls['B']:.2f}"
    ]
    lines += [
        f"    EVSI {name}: R2 {c.r2:.3f}, slope {c.slope:.3f}, sign accuracy {c.sign_accuracy:.3f},"
        f" bias {c.bias:+.4f} (n {c.n})"
        for name, c in found.calibration.items()
    ]
    return lines


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: learn, play, score."""
    desks = tooldesk.sample_desks(options.episodes, np.random.default_rng(1000 + seed))
    config = WorldModelConfig(seed=seed)
    if options.latent == "categorical":
        config = config.override(latent=Categorical())
    model = WorldModel(tooldesk.observation_space(), tooldesk.ToolDesk().action_space, config)
    used = train(
        model,
        desks,
        seconds=60 * options.minutes,
        updates=options.updates,
        batch=options.batch,
        seed=seed,
    )
    print(f"seed {seed}: {model.updates} updates in {used:.0f} s", flush=True)
    if options.save:
        model.save(Path(options.save) / f"tooldesk-{options.latent}-s{seed}")
    return judge(model, options, seed)


def judge(model: WorldModel, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    play = LearnedPlay(
        model, depth=options.depth, samples=options.samples, inner=options.inner, seed=seed
    )
    found = score(play)
    for line in learned_lines(f"learned, seed {seed}, depth {options.depth}", found):
        print(line)
    print(f"    {play.decided} decisions in {time.monotonic() - started:.0f} s", flush=True)
    return {
        "seed": seed,
        "updates": model.updates,
        "value": found.value,
        "ngr": found.regret,
        "useless_share": found.useless_share,
        **{
            f"{name}_{part}": getattr(line, part)
            for name, line in found.calibration.items()
            for part in ("r2", "slope", "sign_accuracy", "bias")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=300_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="of learning, per seed")
    parser.add_argument("--updates", type=int, default=10**9, help="at most so many")
    parser.add_argument("--batch", type=int, default=128, help="episodes per update")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=2, help="calls looked ahead")
    parser.add_argument("--samples", type=int, default=128, help="imagined z per state and tool")
    parser.add_argument("--inner", type=int, default=32, help="the same, further ahead")
    parser.add_argument("--latent", choices=("default", "categorical"), default="default")
    parser.add_argument("--save", default="", help="folder for the trained models")
    parser.add_argument("--json", default="", help="file for the figures")
    options = parser.parse_args()
    print(f"{'gate':<34}{'J':>9}{'NGR':>8}")
    for line in exact_lines():
        print(line)
    results = [run(options, seed) for seed in range(options.seeds)]
    mean = float(np.mean([result["ngr"] for result in results]))
    print(f"learned gate, {len(results)} seeds: NGR {mean:.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
