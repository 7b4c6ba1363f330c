"""What all planners share: the door, one start at a time, the honest worth of the chosen."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.plan import Plan, PlanNoise, Pool
from bb_wm.decide.problem import Layout, Problem
from bb_wm.errors import ConfigError, InputTypeError, LatentError
from bb_wm.imagine.belief import Belief
from bb_wm.imagine.utility import Utility
from bb_wm.protocols import draw_noise
from bb_wm.types import ActionSpec, Latent

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Dynamics

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner(abc.ABC):
    """Settings every planner has.

    horizon         H, rows imagined
    samples         rollouts per candidate, per particle of a belief; 0 follows the mode alone,
                    which is fast and blind to risks that are not the most probable course
    keep            M, how many of the best candidates the Plan reports
    starts_at_once  starts searched in one tensor. With 1 a start gets, bit for bit, the same plan
                    alone as in any batch; with None (all) it is so only up to the rounding of
                    the model's matrix products, and faster on a GPU.
    """

    horizon: int = 12
    samples: int = 8
    keep: int = 16
    starts_at_once: int | None = 1

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        for name, least in (("horizon", 1), ("samples", 0), ("keep", 1)):
            at_least(self, name, least)
        if self.starts_at_once is not None:
            at_least(self, "starts_at_once", 1)

    @property
    @abc.abstractmethod
    def search_shape(self) -> tuple[int, int]:
        """(rounds, candidates per round) of normals the search consumes."""

    @abc.abstractmethod
    def search(self, problem: Problem, noise: Tensor, previous: Plan | None) -> tuple[Pool, Tensor]:
        """The best candidates ranked, and the centre [B, H, A] a later plan may start from.

        `noise` is [B or 1, rounds, candidates, H, A]; `previous` a plan of the same starts.
        """

    def draw(
        self, model: Dynamics, generator: Generators, *, particles: int = 1, device: object = "cpu"
    ) -> PlanNoise:
        """The noise of one plan: shared by all starts, or of each own from several generators.

        Sharing keeps every start's plan the same alone as in a batch.
        """
        if not isinstance(generator, torch.Generator):
            each = [self.draw(model, g, particles=particles, device=device) for g in generator]
            return _stack_noise(each)
        # A generator draws on its own device; the numbers then go where the latent is.
        home, where = generator.device, torch.device(str(device))
        search = draw_noise((*self.search_shape, self.horizon, model.action_size), generator, home)
        size = (self.samples * particles, self.horizon, model.noise_size)
        if self.samples == 0 or model.noise_size == 0:
            return PlanNoise(search.to(where), None, None)
        return PlanNoise(
            search.to(where),
            draw_noise(size, generator, home).to(where),
            draw_noise(size, generator, home).to(where),
        )

    def plan(
        self,
        model: Dynamics,
        latent: Latent | Belief,
        *,
        action_spec: ActionSpec | None = None,
        utility: Utility | None = None,
        generator: Generators | None = None,
        noise: PlanNoise | None = None,
        previous: Plan | None = None,
        mask: Tensor | None = None,
        mask_of: Callable[[Latent], Tensor] | None = None,
        price: Callable[[Latent, Tensor], Tensor] | None = None,
    ) -> Plan:
        """The best action sequence from latent [*batch], or from a belief [*batch] of particles.

        `generator` may be one per start. `mask` [*batch, A] (True: available) holds at the first
        step, [*batch, H, A] at every step; `mask_of` gives it for imagined latents. `previous`, the
        plan made one step ago for the same starts, warms the search where the planner can.
        `price` (starts [*], actions [*, H, A]) -> [*] is taken off the utility, such as
        `TrustedHorizon.price` for rows that cannot be believed. Bad numbers do not raise: such
        candidates are never chosen and the plan says valid = False.
        """
        utility = Utility() if utility is None else utility
        spec = _action_spec(model, action_spec)
        batch, start, log_weights = _starts(latent, self.samples if model.noise_size else 1)
        rows = start.batch_shape[0]
        if noise is None:
            particles = latent.particles if isinstance(latent, Belief) else 1
            noise = self._noise(model, generator, rows, particles, start.h)
        _check_noise(noise, self, model, rows, start.batch_shape[1])
        mask = _full_mask(mask, batch, self.horizon, spec.size)
        before = _previous(previous, batch, self.horizon, spec.size)
        layout = Layout.of(spec, start.h)
        plans = []
        step = rows if self.starts_at_once is None else self.starts_at_once
        with torch.no_grad():
            for first in range(0, rows, step):
                places = slice(first, min(first + step, rows))
                mine = noise.rows(places)
                problem = Problem(
                    model=model,
                    start=start[places],
                    log_weights=None if log_weights is None else log_weights[places],
                    layout=layout,
                    utility=utility,
                    horizon=self.horizon,
                    mask=None if mask is None else mask[places],
                    mask_of=mask_of,
                    noise=None if mine.rollouts is None else mine.rollouts.to(start.h.dtype),
                    price=price,
                )
                warm = None if before is None else before[places]
                pool, centre = self.search(problem, mine.search.to(start.h.dtype), warm)
                plans.append(_finish(problem, pool.best(self.keep), centre, mine.report))
        return Plan.concatenate(plans).map(lambda t: t.reshape((*batch, *t.shape[1:])))

    def _noise(
        self,
        model: Dynamics,
        generator: Generators | None,
        rows: int,
        particles: int,
        like: Tensor,
    ) -> PlanNoise:
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        if not isinstance(generator, torch.Generator) and len(generator) != rows:
            raise ConfigError(
                "generator", expected=f"one, or one per start ({rows})", actual=len(generator)
            )
        return self.draw(model, generator, particles=particles, device=like.device)


def at_least(settings: object, name: str, least: int) -> None:
    """Raise ConfigError unless the setting is an int of at least `least`."""
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        field = f"{type(settings).__name__}.{name}"
        raise ConfigError(field, expected=f"an int >= {least}", actual=repr(value))


def _finish(problem: Problem, best: Pool, centre: Tensor, report: Tensor | None) -> Plan:
    """The plan of the first-ranked candidate, judged anew; no action where nothing is sound."""
    chosen = Pool(best.scores[:, :1], best.worth[:, :1])
    worth = chosen.worth[:, 0]
    if report is not None:
        worth = problem.worth(chosen.scores, report.to(centre.dtype))[:, 0]
    actions = problem.actions(best.scores)
    valid = best.worth.usable[:, 0] & worth.usable & torch.isfinite(actions[:, 0]).all(-1).all(-1)
    if problem.mask is not None:
        valid = valid & problem.layout.possible(problem.mask[:, 0])
    if problem.mask_of is not None:
        valid = valid & problem.layout.possible(problem.mask_of(problem.start)).all(-1)
    abstain = torch.zeros_like(valid)
    if problem.utility.abstain is not None:
        # Not `utility <= abstain`: a NaN must abstain too.
        abstain = ~(valid & worth.allowed & (worth.utility > problem.utility.abstain))
    return Plan(
        actions=actions[:, 0].masked_fill(~valid[:, None, None], torch.nan),
        worth=worth,
        valid=valid,
        abstain=abstain,
        candidates=actions,
        candidate_worth=best.worth,
        scores=best.scores,
        centre=centre,
    )


def _action_spec(model: Dynamics, given: ActionSpec | None) -> ActionSpec:
    spec = getattr(model, "action_spec", None) if given is None else given
    if not isinstance(spec, ActionSpec):
        raise InputTypeError(
            "action_spec",
            expected="an ActionSpec",
            actual=type(spec).__name__,
            hint="pass action_spec=ActionSpec.of(env.action_space).",
        )
    if spec.size != model.action_size:
        raise ConfigError(
            "action_spec", expected=f"actions of size {model.action_size}", actual=spec.size
        )
    return spec


def _starts(latent: Latent | Belief, samples: int) -> tuple[tuple[int, ...], Latent, Tensor | None]:
    """Batch axes, latents [B, S] that rollouts start from, and their log weights [B, S] if any."""
    count = max(samples, 1)
    if isinstance(latent, Belief):
        batch = latent.batch_shape
        wide = latent.latents.expand(count)  # [*batch, P, count]
        size = latent.particles * count
        weights = latent.log_weights[..., None].expand(*batch, latent.particles, count)
        log_weights: Tensor | None = weights.reshape(-1, size)
    elif isinstance(latent, Latent):
        batch, size, log_weights = latent.batch_shape, count, None
        wide = latent.expand(count)
    else:
        raise InputTypeError("latent", expected="a Latent or Belief", actual=type(latent).__name__)
    rows = 1
    for axis in batch:
        rows *= axis
    if rows == 0:
        raise LatentError("latent", expected="at least one start", actual=list(batch))
    return batch, wide.flatten().unflatten((rows, size)), log_weights


def _check_noise(noise: PlanNoise, planner: Planner, model: Dynamics, rows: int, size: int) -> None:
    search = (*planner.search_shape, planner.horizon, model.action_size)
    rolled = (size, planner.horizon, model.noise_size)
    wanted = (("search", noise.search, search), ("rollouts", noise.rollouts, rolled))
    for name, tensor, shape in (*wanted, ("report", noise.report, rolled)):
        if tensor is not None and tuple(tensor.shape) not in (shape, (rows, *shape)):
            raise ConfigError(
                f"noise.{name}",
                expected=f"{list(shape)}, or with {rows} starts in front",
                actual=list(tensor.shape),
                hint="make it with planner.draw(model, generator).",
            )


def _full_mask(
    mask: Tensor | None, batch: tuple[int, ...], horizon: int, size: int
) -> Tensor | None:
    """A mask of the first step or of every step -> [B, H, A]."""
    if mask is None:
        return None
    if tuple(mask.shape) == (*batch, horizon, size):
        return mask.bool().reshape(-1, horizon, size)
    if tuple(mask.shape) != (*batch, size):
        raise ConfigError(
            "mask",
            expected=f"{[*batch, size]} or {[*batch, horizon, size]}",
            actual=list(mask.shape),
        )
    full = torch.ones(*batch, horizon, size, dtype=torch.bool, device=mask.device)
    full[..., 0, :] = mask.bool()
    return full.reshape(-1, horizon, size)


def _previous(
    previous: Plan | None, batch: tuple[int, ...], horizon: int, size: int
) -> Plan | None:
    if previous is None:
        return None
    if tuple(previous.actions.shape) != (*batch, horizon, size):
        raise ConfigError(
            "previous",
            expected=f"a plan of actions {[*batch, horizon, size]}",
            actual=list(previous.actions.shape),
        )
    lead = len(batch)
    return previous.map(lambda t: t.reshape((-1, *t.shape[lead:])))


def _stack_noise(each: list[PlanNoise]) -> PlanNoise:
    def stack(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.stack(there) if there else None

    first = replace(each[0], search=torch.stack([noise.search for noise in each]))
    return replace(
        first,
        rollouts=stack([noise.rollouts for noise in each]),
        report=stack([noise.report for noise in each]),
    )
