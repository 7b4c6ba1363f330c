"""Does planning harder bring more, or only promise more? Plans replayed in a simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.decide.planners import CEM, Planner, RandomShooting
from bb_wm.diagnose.estimates import Estimate, flipped, mean, ratio
from bb_wm.errors import ConfigError
from bb_wm.imagine.utility import Utility
from bb_wm.types import stack_latents

if TYPE_CHECKING:
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Latent

Simulator = Callable[[], Any]
"""Makes a Gymnasium environment that does the same again after reset(seed=the same)."""


@dataclass(frozen=True, slots=True)
class EffortRow:
    """Mean return of the plans of one planner, imagined and replayed."""

    planner: str
    candidates: int
    imagined: float
    replayed: float


@dataclass(frozen=True, slots=True)
class Effort:
    """What more effort promised and what of it came, over `starts` starts of the simulator.

    promise      imagined return of the strongest planner less that of the weakest, per start
    undelivered  share of that promise that the simulator did not give: 0 all came, 1 nothing did,
                 above 1 planning harder made it worse
    worst        the seed of the start with the largest gap
    """

    rows: tuple[EffortRow, ...]
    starts: int
    horizon: int
    promise: Estimate
    undelivered: Estimate
    worst: int


def default_planners(horizon: int) -> tuple[Planner, ...]:
    """From no choice at all to a strong search; all judge by the mode, as rollouts are replayed."""
    shared: dict[str, Any] = {"horizon": horizon, "samples": 0, "keep": 1, "starts_at_once": None}
    return (
        RandomShooting(candidates=1, **shared),
        RandomShooting(candidates=32, **shared),
        CEM(candidates=128, elites=16, rounds=4, **shared),
    )


def measure_effort(
    model: WorldModel,
    simulator: Simulator,
    *,
    horizon: int = 10,
    starts: int = 24,
    warmup: int = 5,
    planners: Sequence[Planner] | None = None,
    seed: int = 0,
) -> Effort:
    """Plan from `starts` starts after `warmup` random rows, and do the plans in the simulator.

    Start i is reset(seed=seed + i) and the same warm-up actions each time; an episode that ends in
    the warm-up gives no start. Returns are undiscounted sums over the horizon.
    """
    ladder = default_planners(horizon) if planners is None else tuple(planners)
    if len(ladder) < 2:
        raise ConfigError("planners", expected="at least a weak and a strong one", actual=ladder)
    env = simulator()
    kept = [
        (seed + i, latent, actions)
        for i in range(starts)
        if (start := _begin(model, env, seed + i, warmup)) is not None
        for latent, actions in [start]
    ]
    if not kept:
        raise ConfigError("warmup", expected="fewer rows than episodes have", actual=warmup)
    latents = stack_latents([latent for _, latent, _ in kept])
    imagined = np.zeros((len(ladder), len(kept)))
    replayed = np.zeros_like(imagined)
    for place, planner in enumerate(ladder):
        plan = planner.plan(
            model,
            latents,
            utility=Utility(discount=1.0),
            generator=[torch.Generator().manual_seed(number) for number, _, _ in kept],
        )
        imagined[place] = plan.worth.return_.cpu().numpy()
        for at, (number, _, actions) in enumerate(kept):
            future = plan.actions[at].cpu().numpy()
            replayed[place, at] = _replay(model, env, number, actions, future)
    promise, came = imagined[-1] - imagined[0], replayed[-1] - replayed[0]
    unit = np.arange(len(kept))
    return Effort(
        rows=tuple(
            EffortRow(
                type(planner).__name__,
                int(np.prod(planner.search_shape)),
                float(imagined[i].mean()),
                float(replayed[i].mean()),
            )
            for i, planner in enumerate(ladder)
        ),
        starts=len(kept),
        horizon=horizon,
        promise=mean(promise, unit),
        undelivered=flipped(ratio(came, promise, unit)),
        worst=kept[int(np.argmax(promise - came))][0],
    )


def _begin(
    model: WorldModel, env: Any, number: int, warmup: int
) -> tuple[Latent, list[np.ndarray]] | None:
    """The belief after the warm-up, and the flat actions that led there; None: it ended."""
    draw = np.random.default_rng([number, 1])
    obs, _ = env.reset(seed=number)
    latent, actions = model.encode(obs), []
    for _ in range(warmup):
        flat = model.action_spec.sample(draw, 1)[0]
        actions.append(flat)
        obs, _, terminated, truncated, _ = env.step(model.action_spec.unflatten(flat))
        if terminated or truncated:
            return None
        latent = model.encode(obs, latent, torch.from_numpy(flat))
    return latent, actions


def _replay(
    model: WorldModel, env: Any, number: int, before: list[np.ndarray], plan: np.ndarray
) -> float:
    """The simulator's return of the plan [H, A] done after the same beginning."""
    env.reset(seed=number)
    for flat in before:
        env.step(model.action_spec.unflatten(flat))
    total = 0.0
    for flat in plan:
        _, reward, terminated, truncated, _ = env.step(model.action_spec.unflatten(flat))
        total += float(reward)
        if terminated or truncated:
            break
    return total
