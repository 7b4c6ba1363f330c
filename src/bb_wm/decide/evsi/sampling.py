"""Joint samples of an Observer: particles, the call, imagined answers read again, worths.

(1) particles of the belief; (2) the call's step, z' ~ p(. | h'); (3) decode o' ~ p(o | h', z');
(4) re-encode: statistics of q(. | h', o'); (5) worths by imagination from the same (h', z'), the
same noise for every candidate. Choosing and scoring happen later, on these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.answers import features_of, flatten, imagine_answers, likelihood_of
from bb_wm.decide.evsi.ask import Ask, Candidates
from bb_wm.decide.evsi.bounds import ceiling
from bb_wm.decide.evsi.samples import JointSamples
from bb_wm.decide.evsi.worths import Worth, with_abstention, worth_of
from bb_wm.errors import ConfigError
from bb_wm.protocols import draw_noise
from bb_wm.types import Latent

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.evsi.criteria import Criterion
    from bb_wm.imagine.utility import Utility
    from bb_wm.protocols import Observer

_ATOMS = 32
_REREAD = 2  # candidates imagined again to check q


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Latents [N] with weights [N] (equal when None); `single` says all are one latent.

    `ancestors` [N] are the indices they were drawn from: many are draws from the belief, and one's
    copies stay in one fold; a few `atoms` are the belief, and every fold gets its share of each.
    """

    latents: Latent
    weights: Tensor | None
    ancestors: Tensor | None
    exact: bool
    single: bool
    atoms: bool = False

    @property
    def count(self) -> int:
        return self.latents.batch_shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What all asks of one stage share: particles, noise of every row, worths without asking."""

    particles: Particles
    noise: Tensor
    start: Worth


@dataclass(frozen=True, slots=True)
class Plan:
    """How samples are made; one object so that every ask is made the same way."""

    candidates: Candidates
    before: Candidates | None
    utility: Utility
    horizon: int
    answers: int
    reading: str
    tower: bool
    criterion: Criterion

    @property
    def abstain(self) -> float | None:
        if self.utility.limit is not None and self.utility.abstain is None:
            return 0.0
        return self.utility.abstain


def draw_particles(
    belief: object, count: int | None, generator: torch.Generator, *, exact: bool
) -> Particles:
    """`count` particles of a latent, of latents [M], of (latents, weights), or of a Belief."""
    latents, weights = _open(belief)
    if not latents.batch_shape:
        if exact or count is None:
            raise ConfigError("belief", expected="latents [N] to be exact", actual="one latent")
        return Particles(latents.map(lambda t: t.expand(count, *t.shape)), None, None, False, True)
    if len(latents.batch_shape) != 1:
        raise ConfigError(
            "belief", expected="one batch axis of particles [N]", actual=latents.batch_shape
        )
    size = latents.batch_shape[0]
    if exact or count is None or (count == size and weights is None):
        return Particles(latents, weights, None, exact, size == 1)
    share = torch.full((size,), 1.0 / size) if weights is None else weights / weights.sum()
    # Systematic resampling: each particle comes up as often as its weight says, give or take one.
    start = torch.rand((), generator=generator, dtype=torch.float64)
    at = (torch.arange(count, dtype=torch.float64) + start) / count
    index = torch.searchsorted(share.double().cumsum(0), at).clamp_max(size - 1)
    return Particles(latents[index], None, index, False, size == 1, size < _ATOMS)


def is_dead(belief: object) -> bool:
    """No particle has a usable weight: an answer was impossible under all of them."""
    weights = _open(belief)[1]
    if weights is None:
        return False
    return not bool(torch.isfinite(weights).all() & (weights >= 0).all() & (weights.sum() > 0))


def _open(belief: object) -> tuple[Latent, Tensor | None]:
    if isinstance(belief, Latent):
        return belief, None
    if isinstance(belief, tuple) and len(belief) == 2 and isinstance(belief[0], Latent):
        return belief[0], torch.as_tensor(belief[1]).double()
    latents = next(
        (
            getattr(belief, name)
            for name in ("latents", "particles", "latent")
            if isinstance(getattr(belief, name, None), Latent)
        ),
        None,
    )
    if latents is None:
        raise ConfigError(
            "belief",
            expected="a Latent, (Latent [N], weights [N]) or a Belief",
            actual=type(belief).__name__,
        )
    weights = getattr(belief, "weights", None)
    if weights is None and isinstance(getattr(belief, "log_weights", None), torch.Tensor):
        weights = belief.log_weights.double().softmax(-1)  # type: ignore[attr-defined]
    return latents, None if weights is None else torch.as_tensor(weights).double()


def prepare(
    model: Observer, particles: Particles, plan: Plan, rows: int, generator: torch.Generator
) -> Stage:
    """Noise for every row up to the deadline, and the worths of acting now."""
    like = particles.latents.h
    noise = draw_noise((particles.count, rows, model.noise_size), generator).to(like)
    candidates = plan.candidates if plan.before is None else plan.before
    worth = worth_of(
        model, particles.latents, candidates, plan.utility, plan.horizon, noise[:, : plan.horizon]
    )
    return Stage(particles, noise, with_abstention(worth, plan.abstain))


def samples_of(
    model: Observer, stage: Stage, ask: Ask, plan: Plan, generator: torch.Generator
) -> JointSamples:
    """The joint samples of one ask on a stage that other asks share."""
    particles = stage.particles
    path, made, danger, reach = _call(model, stage, ask, plan)
    moved = ask.action is not None
    after, rest = stage.start, plan.horizon
    if moved or plan.before is not None:
        rest = max(0, plan.horizon - (ask.calls if moved else 0))
        if plan.horizon and rest == 0:
            raise ConfigError(
                "horizon",
                expected=f"> {ask.calls} rows, the calls take that many",
                actual=plan.horizon,
            )
        after = _worth_after(model, path[-1], stage, ask, plan, made, danger, reach)
    likelihood = features = None
    collapsed = False
    told: Mapping[str, Tensor] = {}
    if ask.answers is not None:
        likelihood = likelihood_of(model, path, ask)
    if likelihood is None:
        features, collapsed, told = features_of(
            model, path, particles.latents, ask, plan.answers, plan.reading, generator
        )
    changed = moved or plan.before is not None
    before = stage.start if changed else None
    reread = known = None
    again = 0
    if plan.tower and ask.calls == 1 and not _hopeless(after, before, ask, plan, particles):
        if features is None:
            told = imagine_answers(model, path[0], ask, None, generator)
            known = flatten(told, 1)
        else:
            known = features[:, 0]
        chance = draw_noise((particles.count, model.noise_size), generator).to(made)
        belief = model.condition(path[0], told, chance)
        chosen = _most_spread(after.returns, plan)
        picked = replace(plan, candidates=_subset(plan.candidates, chosen))
        imagined = _worth_after(model, belief, stage, ask, picked, made, danger, reach).returns
        again = len(chosen)
        reread = after.returns.clone()
        whole = callable(plan.candidates)
        reread[:, chosen] = imagined[:, chosen if whole else slice(0, again)]
    size = int(after.returns.shape[1])
    return JointSamples(
        utility=after.returns,
        before=None if before is None else before.returns,
        risk=after.risks,
        before_risk=None if before is None else before.risks,
        likelihood=likelihood,
        features=features,
        weights=particles.weights,
        exact=particles.exact,
        groups=None if particles.atoms else particles.ancestors,
        strata=particles.ancestors if particles.atoms else None,
        reread=reread,
        reread_features=known,
        call_risk=danger if moved else None,
        rollouts=particles.count * (size * (1 + changed) + again),
        collapsed=collapsed,
    )


def _call(
    model: Observer, stage: Stage, ask: Ask, plan: Plan
) -> tuple[list[Latent], Tensor, Tensor, Tensor]:
    """Latents where each call's answer is made, and return, V_s and reach of the calls [N]."""
    latent = stage.particles.latents
    zero = (
        torch.zeros_like(latent.h[:, 0]) if latent.h.shape[-1] else torch.zeros_like(latent.z[:, 0])
    )
    made, danger, reach = zero, zero.clone(), torch.ones_like(zero)
    if ask.action is None:
        return [latent] * ask.calls, made, danger, reach
    action = ask.action.to(latent.h)
    if action.shape != (model.action_size,):
        raise ConfigError("Ask.action", expected=[model.action_size], actual=list(action.shape))
    path = []
    for k in range(ask.calls):
        latent = model.step(latent, action.expand(*latent.batch_shape, -1), stage.noise[:, k])
        path.append(latent)
        made = made + plan.utility.discount**k * reach * model.predict_reward(latent)
        seen = plan.utility.risk_discount**k * reach * model.predict_safety(latent)
        danger = torch.maximum(danger, seen) if plan.utility.over_time == "peak" else danger + seen
        reach = reach * model.predict_continue(latent)
    return path, made, danger, reach


def _worth_after(
    model: Observer,
    latent: Latent,
    stage: Stage,
    ask: Ask,
    plan: Plan,
    made: Tensor,
    danger: Tensor,
    reach: Tensor,
) -> Worth:
    """Worth of candidates once the calls are over, to the same deadline, without their price."""
    calls = 0 if ask.action is None else ask.calls
    rest = plan.horizon - calls if plan.horizon else 0
    noise = stage.noise[:, calls : calls + rest]
    later = worth_of(model, latent, plan.candidates, plan.utility, rest, noise)
    price = ask.price if ask.cost_in_reward else 0.0
    later = with_abstention(later, plan.abstain)
    if ask.action is None:
        return Worth(later.returns + price, later.risks)
    scale = (plan.utility.discount**calls * reach)[:, None]
    returns = made[:, None] + scale * later.returns + price
    if later.risks is None:
        return Worth(returns, None)
    fade = (plan.utility.risk_discount**calls * reach)[:, None]
    if plan.utility.over_time == "peak":
        return Worth(returns, torch.maximum(danger[:, None], reach[:, None] * later.risks))
    return Worth(returns, danger[:, None] + fade * later.risks)


def _hopeless(
    after: Worth, before: Worth | None, ask: Ask, plan: Plan, particles: Particles
) -> bool:
    """Not even the truth would be worth the price: nothing more need be imagined."""
    weights = particles.weights
    if weights is None:
        weights = torch.full((particles.count,), 1.0 / particles.count)
    most = ceiling(
        plan.criterion,
        after.returns,
        after.risks,
        None if before is None else before.returns,
        None if before is None else before.risks,
        weights.double() / weights.sum(),
    )
    return most < ask.price and not particles.exact


def _most_spread(worth: Tensor, plan: Plan) -> Tensor:
    """Indices of the candidates imagined again: the worths that vary most show q best."""
    own = worth if plan.abstain is None else worth[:, :-1]
    return own.std(0).argsort(descending=True)[:_REREAD].sort().values


def _subset(candidates: Candidates, chosen: Tensor) -> Candidates:
    """Those candidates; a worth function gives all of them anyway."""
    if isinstance(candidates, torch.Tensor):
        return candidates[chosen]
    if isinstance(candidates, Sequence):
        return [candidates[int(i)] for i in chosen]
    return candidates
