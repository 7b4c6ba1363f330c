"""Joint samples of an Observer: particles, the call, imagined answers read again, worths.

(1) particles of the belief; (2) the call's step, z' ~ p(. | h'); (3) decode o' ~ p(o | h', z');
(4) re-encode: statistics of q(. | h', o'); (5) worths by imagination from the same (h', z'), the
same noise for every candidate. Choosing and scoring happen later, on these.

What the agent knows after an answer must be a function of the answer alone. Particles differ in h,
which the agent does not see, so answers are re-encoded from reference particles shared by all
answers, never from the particle that made them: that would be clairvoyance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.ask import Ask, Candidates
from bb_wm.decide.evsi.samples import JointSamples
from bb_wm.decide.evsi.worths import Worth, with_abstention, worth_of
from bb_wm.errors import BatchError, ConfigError
from bb_wm.protocols import draw_noise
from bb_wm.types import Latent, stack_latents

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.imagine.utility import Utility
    from bb_wm.protocols import Observer

LARGEST_PRODUCT = 1024  # joint answers of several calls up to which they are summed over
_ATOMS = 32
_REFERENCES = 4
_SHARED_DRAWS = 4


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
    if ask.answers is not None:
        likelihood = _likelihood(model, path, ask)
    if likelihood is None:
        features, collapsed = _features(model, path, stage, ask, plan, generator)
    reread = None
    if plan.tower and ask.calls == 1:
        drawn = _imagined(model, path[0], ask, None, generator)
        belief = model.condition(
            path[0], drawn, draw_noise((particles.count, model.noise_size), generator).to(made)
        )
        reread = _worth_after(model, belief, stage, ask, plan, made, danger, reach).returns
    size = int(after.returns.shape[1])
    changed = moved or plan.before is not None
    return JointSamples(
        utility=after.returns,
        before=stage.start.returns if changed else None,
        risk=after.risks,
        before_risk=stage.start.risks if changed else None,
        likelihood=likelihood,
        features=features,
        weights=particles.weights,
        exact=particles.exact,
        groups=None if particles.atoms else particles.ancestors,
        strata=particles.ancestors if particles.atoms else None,
        reread=reread,
        call_risk=danger if moved else None,
        rollouts=particles.count * size * (1 + changed + (reread is not None)),
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


def _likelihood(model: Observer, path: list[Latent], ask: Ask) -> Tensor | None:
    """p(joint answer | world) [N, K^calls], or None where there are too many to list."""
    listed = {key: torch.as_tensor(value) for key, value in (ask.answers or {}).items()}
    sizes = {int(value.shape[0]) for value in listed.values()}
    if len(sizes) != 1:
        raise BatchError("Ask.answers", expected="[K, ...] with one K", actual=sorted(sizes))
    size = sizes.pop()
    if size**ask.calls > LARGEST_PRODUCT:
        return None
    joint: Tensor | None = None
    for k, latent in enumerate(path):
        if k == 0 or latent is not path[k - 1]:
            wide = latent.expand(size)
            lead = latent.batch_shape
            told = {key: v.expand(*lead, *v.shape) for key, v in listed.items()}
            single = model.log_likelihood(wide, told).double().softmax(-1)
        joint = single if joint is None else (joint[:, :, None] * single[:, None]).flatten(1)
    return joint


def _imagined(
    model: Observer, latent: Latent, ask: Ask, repeats: int | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Answers [N(, R), ...] drawn from each latent, with what was already seen beside them."""
    wide = latent if repeats is None else latent.expand(repeats)
    shape = (*wide.batch_shape, model.obs_noise_size)
    drawn = model.imagine_obs(wide, draw_noise(shape, generator).to(latent.h))
    keys = tuple(drawn) if ask.keys is None else ask.keys
    missing = [key for key in keys if key not in drawn]
    if missing:
        raise ConfigError("Ask.keys", expected=f"among {sorted(drawn)}", actual=missing)
    told = {key: drawn[key] for key in keys}
    for key, value in (ask.seen or {}).items():
        if key not in told:
            told[key] = torch.as_tensor(value).to(latent.h).expand(*wide.batch_shape, -1)
    return told


def _features(
    model: Observer,
    path: list[Latent],
    stage: Stage,
    ask: Ask,
    plan: Plan,
    generator: torch.Generator,
) -> tuple[Tensor, bool]:
    """What the agent knows after each drawn answer [N, R, F], and whether q ignored it."""
    answers = [_imagined(model, latent, ask, plan.answers, generator) for latent in path]
    keys = [key for key in answers[0] if not (ask.seen and key in ask.seen)]
    raw = [_flat({key: told[key] for key in keys}, 2) for told in answers]
    if plan.reading == "answer":
        return _join(raw, ask), False
    agents = _references(stage.particles, generator)
    parts: list[Tensor] = []
    for agent in agents:
        known = agent.map(lambda t: t.expand(stage.particles.count, plan.answers, *t.shape))
        seen = []
        for k, told in enumerate(answers):
            if ask.action is not None:
                action = ask.action.to(known.h).expand(*known.batch_shape, -1)
                known = model.step(known, action)
            statistics = _posterior(model, known, told, generator)
            if ask.action is not None:
                known = model.condition(known, told)
                if k > 0:
                    # From the second call on, h holds what the first answer told.
                    statistics = torch.cat([statistics, known.h], -1)
            seen.append(statistics)
        parts.append(_join(seen, ask))
    features = torch.cat(parts, -1).double()
    return features, _moved_little(features, torch.cat(raw, -1).double())


def _posterior(
    model: Observer, latent: Latent, told: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Statistics of q(. | h, o): the model's own where it offers them, else mode, mean, spread."""
    offered = getattr(model, "posterior_statistics", None)
    if callable(offered):
        result: Tensor = offered(latent, told)
        return result
    mode = model.condition(latent, told).z
    if model.noise_size == 0:
        return mode
    # The same few draws for every answer, so that only the answer makes a difference.
    noise = draw_noise((_SHARED_DRAWS, model.noise_size), generator).to(mode)
    draws = stack_latents(
        [
            model.condition(latent, told, row.expand(*latent.batch_shape, -1))
            for row in torch.cat([noise, -noise])
        ]
    ).z
    return torch.cat([mode, draws.mean(-2), draws.std(-2)], -1)


def _references(particles: Particles, generator: torch.Generator) -> list[Latent]:
    latents = particles.latents
    if particles.single or bool(
        (latents.h == latents.h[:1]).all() & (latents.z == latents.z[:1]).all()
    ):
        return [latents[0]]
    index = torch.randperm(particles.count, generator=generator)[:_REFERENCES]
    return [latents[int(i)] for i in index]


def _join(parts: list[Tensor], ask: Ask) -> Tensor:
    """Several calls: averaged where they read the same latent, side by side where it moved."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).mean(0) if ask.action is None else torch.cat(parts, -1)


def _flat(told: Mapping[str, Tensor], lead: int) -> Tensor:
    return torch.cat([value.flatten(lead).double() for _, value in sorted(told.items())], -1)


def _moved_little(features: Tensor, raw: Tensor) -> bool:
    """Posterior collapse: answers differ, what is known after them does not."""
    told = raw.flatten(0, 1).var(0).sum()
    learnt = features.flatten(0, 1)
    moved = learnt.var(0).sum() / learnt.square().mean(0).sum().clamp_min(1e-300)
    return bool((told > 0) & (moved < 1e-8))
