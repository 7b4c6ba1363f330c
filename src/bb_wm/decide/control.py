"""Model predictive control: whole episodes played by planning anew at every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.errors import ConfigError
from bb_wm.types import ActionSpec, Latent

if TYPE_CHECKING:
    from bb_wm.decide.plan import Plan
    from bb_wm.decide.planner import Planner
    from bb_wm.imagine.utility import Utility
    from bb_wm.protocols import Dynamics

Encode = Callable[..., Latent]


@dataclass(frozen=True, slots=True)
class Played:
    """Per episode its return, its summed risk (info["cost"]) and its rows; seconds per plan."""

    returns: tuple[float, ...]
    risks: tuple[float, ...]
    rows: tuple[int, ...]
    seconds_per_plan: float


def play(
    envs: Sequence[Any],
    model: Dynamics,
    encode: Encode,
    planner: Planner,
    utility: Utility,
    *,
    seed: int = 0,
    action_spec: ActionSpec | None = None,
) -> Played:
    """One episode of each Gymnasium environment, side by side, under the planner's first actions.

    `encode(obs, previous, action)` gives the latents [B] of observations [B] (dicts of them for
    dict spaces); previous and action are None at first. An episode also ends, with what it has,
    where the plan is not valid or abstains: there is no action then. Episode i is reset with
    seed * 1000 + i, and so is the generator of its plans: two planners meet the same luck.
    """
    if not envs:
        raise ConfigError("envs", expected="at least one environment", actual="none")
    spec = ActionSpec.of(envs[0].action_space) if action_spec is None else action_spec
    planner = replace(planner, starts_at_once=None)
    count = len(envs)
    generators = [torch.Generator().manual_seed(seed * 1000 + i) for i in range(count)]
    latent = encode(_stack([env.reset(seed=seed * 1000 + i)[0] for i, env in enumerate(envs)]))
    returns, risks, rows = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    live = list(range(count))  # the episode of each row of `latent` and `plan`
    plan: Plan | None = None
    spent, plans = 0.0, 0
    while live:
        begun = time.perf_counter()
        plan = planner.plan(
            model,
            latent,
            action_spec=spec,
            utility=utility,
            generator=[generators[i] for i in live],
            previous=plan,
        )
        spent, plans = spent + time.perf_counter() - begun, plans + len(live)
        seen, stay = [], []
        doable = (plan.valid & ~plan.abstain).tolist()
        for place, i in enumerate(live):
            if not doable[place]:
                continue
            action = spec.unflatten(plan.action[place].cpu().numpy())
            obs, reward, terminated, truncated, info = envs[i].step(action)
            returns[i] += float(reward)
            risks[i] += float(info.get("cost", 0.0))
            rows[i] += 1
            if not (terminated or truncated):
                seen.append(obs)
                stay.append(place)
        live = [live[place] for place in stay]
        if live:
            index = torch.tensor(stay)
            plan = plan[index]
            latent = encode(_stack(seen), latent[index], plan.action)
    return Played(
        tuple(returns.tolist()), tuple(risks.tolist()), tuple(rows.tolist()), spent / plans
    )


def _stack(seen: list[Any]) -> Any:
    """Observations of several environments as one, key by key for dicts."""
    if isinstance(seen[0], dict):
        return {key: _stack([one[key] for one in seen]) for key in seen[0]}
    return np.stack([np.asarray(one) for one in seen])
