"""Episodes in which an agent may ask before it acts: what a gate saves beside simpler habits.

`consult` plays Gymnasium environments side by side. A strategy sees the same evidence as the gate:
`gated` is the gate itself; `never`, `always` and `confident` are what people do without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.decide.control import Encode, stack_obs
from bb_wm.decide.evidence import Evidence, number
from bb_wm.decide.gate import Decision, Gate, Verdict
from bb_wm.errors import ConfigError
from bb_wm.protocols import draw_noise
from bb_wm.types import ActionSpec

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.asker import Asker
    from bb_wm.types import Latent

MOST_ROWS = 10_000  # of an episode; a strategy that never acts would go on for ever


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy does: ACT on candidate `index`, ASK number `index`, or HOLD (None).

    `decision_id` names the ledger's record where there is one.
    """

    verdict: Verdict
    index: int | None
    decision_id: str = ""


Strategy = Callable[[Evidence], Choice]


@dataclass(frozen=True, slots=True)
class Consulted:
    """Per episode: its return, its risk (info["safety"] or info["cost"], summed), and how often
    each ask was made [episodes, asks]; `earned` are (decision id, return from there on)."""

    returns: np.ndarray
    risks: np.ndarray
    asked: np.ndarray
    earned: tuple[tuple[str, float], ...]


# --- strategies -----------------------------------------------------------------------------------


def gated(gate: Gate, decide: Callable[[Evidence], Decision] | None = None) -> Strategy:
    """The gate; `decide` where decisions also go on record (`decide_and_record`)."""

    def strategy(evidence: Evidence) -> Choice:
        decision = gate.decide(evidence) if decide is None else decide(evidence)
        return _choice(decision, evidence)

    return strategy


def never(gate: Gate) -> Strategy:
    """Acts at once, or holds, by the same rule."""
    return lambda evidence: _choice(gate.decide(evidence, force="skip"), evidence)


def always(gate: Gate, name: str) -> Strategy:
    """Makes the ask of that name as long as it can be made, then acts."""

    def strategy(evidence: Evidence) -> Choice:
        found = _find(evidence, name)
        if found is not None:
            return Choice(Verdict.ASK, found)
        return _choice(gate.decide(evidence, force="skip"), evidence)

    return strategy


def confident(gate: Gate, name: str, threshold: float) -> Strategy:
    """Makes the ask until the best candidate's chance of no risk reaches `threshold`."""

    def strategy(evidence: Evidence) -> Choice:
        best = max(evidence.candidates, key=lambda one: number(one.utility))
        found = _find(evidence, name)
        if found is not None and 1.0 - number(best.risk) < threshold:
            return Choice(Verdict.ASK, found)
        return _choice(gate.decide(evidence, force="skip"), evidence)

    return strategy


def _find(evidence: Evidence, name: str) -> int | None:
    return next((i for i, ask in enumerate(evidence.asks) if ask.name == name), None)


def _choice(decision: Decision, evidence: Evidence) -> Choice:
    return Choice(decision.verdict, decision.index, decision.decision_id)


class DrawnBelief:
    """`encode` with `particles` beliefs drawn beside each other, latents [B, P].

    A recurrent belief is learnt with z drawn at every row; along the modes alone it is a little
    too timid about what it has been told. The luck is the same for every episode.
    """

    def __init__(self, encode: Encode, noise_size: int, *, particles: int = 8, seed: int = 0):
        if particles < 2:
            raise ConfigError("particles", expected="at least 2", actual=particles)
        self.encode, self.particles, self.noise_size = encode, particles, noise_size
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, obs: Any, previous: Latent | None = None, action: Any = None) -> Latent:
        rows = obs if isinstance(obs, dict) else {"": obs}
        many = {k: np.repeat(np.asarray(v)[:, None], self.particles, 1) for k, v in rows.items()}
        count = next(iter(many.values())).shape[0]
        half = draw_noise((-(-self.particles // 2), self.noise_size), self.generator)
        noise = torch.cat([half, -half])[: self.particles].expand(count, -1, -1)
        if action is not None:
            action = action[:, None].expand(-1, self.particles, -1)
        with torch.no_grad():
            seen = many if isinstance(obs, dict) else many[""]
            return self.encode(seen, previous, action, noise=noise)


# --- playing --------------------------------------------------------------------------------------


def consult(
    envs: Sequence[Any],
    encode: Encode,
    asker: Asker,
    strategy: Strategy,
    hold: Tensor,
    *,
    seed: int = 0,
    clock: Callable[[], float] = lambda: 0.0,
) -> Consulted:
    """One episode of each environment; episode i is reset with seed * 1000 + i.

    `encode(obs, previous, action)` gives latents [B] (`WorldModel.encode`) or [B, P]
    (`DrawnBelief`); `hold` is the flat
    action [A] done where the strategy holds. Strategies that ask alike meet the same luck.
    """
    if not envs:
        raise ConfigError("envs", expected="at least one environment", actual="none")
    spec = ActionSpec.of(envs[0].action_space)
    names = [ask.name for ask in asker.asks]
    table = torch.cat([asker.candidates[:, 0], torch.stack([a.action for a in asker.asks])])
    count, first_ask = len(envs), asker.candidates.shape[0]
    returns, risks = np.zeros(count), np.zeros(count)
    asked = np.zeros((count, len(names)), np.int64)
    told: list[tuple[str, int, float]] = []
    live = list(range(count))
    obs = stack_obs([env.reset(seed=seed * 1000 + i)[0] for i, env in enumerate(envs)])
    latent: Latent = encode(obs)
    for _ in range(MOST_ROWS):
        pieces = asker.evidence(latent, as_seen(obs), observed_at=clock())
        seen, stay, done = [], [], []
        for place, (i, evidence) in enumerate(zip(live, pieces, strict=True)):
            choice = strategy(evidence)
            action = hold
            if choice.verdict is Verdict.ASK and choice.index is not None:
                k = names.index(evidence.asks[choice.index].name)
                asked[i, k] += 1
                action = table[first_ask + k]
            elif choice.index is not None:
                action = table[choice.index]
            if choice.decision_id:
                told.append((choice.decision_id, i, float(returns[i])))
            row, reward, terminated, truncated, info = envs[i].step(spec.unflatten(action.numpy()))
            returns[i] += float(reward)
            risks[i] += float(info.get("safety", info.get("cost", 0.0)))
            if not (terminated or truncated):
                seen.append(row)
                stay.append(place)
                done.append(action)
        live = [live[place] for place in stay]
        if not live:
            break
        obs = stack_obs(seen)
        latent = encode(obs, latent[torch.tensor(stay)], torch.stack(done))
    earned = tuple((name, float(returns[i]) - before) for name, i, before in told)
    return Consulted(returns, risks, asked, earned)


def as_seen(obs: Any) -> dict[str, Tensor]:
    """Observations [N] as what asks read: key -> [N, *shape], single numbers as [N, 1]."""
    rows = obs if isinstance(obs, dict) else {"obs": obs}
    tensors = {key: torch.as_tensor(np.asarray(value)) for key, value in rows.items()}
    return {key: t[:, None] if t.dim() == 1 else t for key, t in tensors.items()}
