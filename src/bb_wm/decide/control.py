"""Model predictive control: planning anew at every row, to play episodes or to collect them."""

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
    from torch import Tensor

    from bb_wm.decide.plan import Plan
    from bb_wm.decide.planner import Planner
    from bb_wm.imagine.utility import Utility
    from bb_wm.protocols import Dynamics

Encode = Callable[..., Latent]


@dataclass(frozen=True, slots=True, eq=False)
class PlanningPolicy:
    """A planner as the policy of `bb_wm.data.collect`: every episode keeps its own belief.

    encode      (obs, previous, action) -> Latent, such as `WorldModel.encode`
    explore     share of the rows where a uniformly random action is done instead
    price       off the utility of a plan, as in `Planner.plan`
    ready       asked as an episode begins; False makes all its actions random, so that collecting
                can begin before the model knows anything

    Where a plan is not valid or abstains, a random action is done: this is for collecting in a
    simulator, not for an actuator (`Gate` is).
    """

    model: Dynamics
    encode: Encode
    planner: Planner
    action_spec: ActionSpec
    utility: Utility | None = None
    explore: float = 0.0
    price: Callable[[Latent, Tensor], Tensor] | None = None
    ready: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise ConfigError("PlanningPolicy.explore", expected="in [0, 1]", actual=self.explore)

    def begin(self, generator: np.random.Generator) -> Callable[[Any], Any]:
        """obs -> action for the rows of one episode, in order."""
        return _Actor(self, generator, self.ready())


class _Actor:
    """One episode of a PlanningPolicy."""

    def __init__(self, policy: PlanningPolicy, generator: np.random.Generator, plans: bool) -> None:
        self.policy, self.generator, self.plans = policy, generator, plans
        self.luck = torch.Generator().manual_seed(int(generator.integers(2**62)))
        self.plan: Plan | None = None
        self.latent: Latent | None = None
        self.action: torch.Tensor | None = None

    def __call__(self, obs: Any) -> Any:
        policy = self.policy
        spec = policy.action_spec
        flat = torch.as_tensor(spec.sample(self.generator, 1)[0])
        if not self.plans:
            return spec.unflatten(flat.numpy())
        self.latent = policy.encode(stack_obs([obs]), self.latent, self.action)
        self.plan = policy.planner.plan(
            policy.model,
            self.latent,
            action_spec=spec,
            utility=policy.utility,
            generator=self.luck,
            previous=self.plan,
            price=policy.price,
        )
        doable = bool(self.plan.valid[0] & ~self.plan.abstain[0])
        if doable and self.generator.random() >= policy.explore:
            flat = self.plan.action[0]
        self.action = flat[None]
        return spec.unflatten(flat.cpu().numpy())


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
    price: Callable[[Latent, Tensor], Tensor] | None = None,
) -> Played:
    """One episode of each Gymnasium environment, side by side, under the planner's first actions.

    `encode(obs, previous, action)` gives the latents [B] of observations [B] (dicts of them for
    dict spaces); previous and action are None at first. An episode also ends, with what it has,
    where the plan is not valid or abstains: there is no action then. `price` is `Planner.plan`'s.
    Episode i is reset with seed * 1000 + i, and so is the generator of its plans: two planners
    meet the same luck.
    """
    if not envs:
        raise ConfigError("envs", expected="at least one environment", actual="none")
    spec = ActionSpec.of(envs[0].action_space) if action_spec is None else action_spec
    planner = replace(planner, starts_at_once=None)
    count = len(envs)
    generators = [torch.Generator().manual_seed(seed * 1000 + i) for i in range(count)]
    latent = encode(stack_obs([env.reset(seed=seed * 1000 + i)[0] for i, env in enumerate(envs)]))
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
            price=price,
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
            latent = encode(stack_obs(seen), latent[index], plan.action)
    return Played(
        tuple(returns.tolist()), tuple(risks.tolist()), tuple(rows.tolist()), spent / plans
    )


def stack_obs(seen: list[Any]) -> Any:
    """Observations of several environments as one, key by key for dicts."""
    if isinstance(seen[0], dict):
        return {key: stack_obs([one[key] for one in seen]) for key in seen[0]}
    return np.stack([np.asarray(one) for one in seen])
