"""Imagined answers, and what the agent knows after each of them.

What is known must be a function of the answer alone. Particles differ in h, which the agent does
not see, so answers are re-encoded from reference particles shared by all answers, never from the
particle that made them: that would be clairvoyance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.ask import Ask
from bb_wm.errors import BatchError, ConfigError
from bb_wm.protocols import draw_noise
from bb_wm.types import Latent, stack_latents

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Observer

LARGEST_PRODUCT = 1024  # joint answers of several calls up to which they are summed over
LEAST_NATS = 1e-3  # q that moves less over answers has collapsed
_REFERENCES = 4
_SHARED_DRAWS = 4


def likelihood_of(model: Observer, path: list[Latent], ask: Ask) -> Tensor | None:
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


def imagine_answers(
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


def features_of(
    model: Observer,
    path: list[Latent],
    particles: Latent,
    ask: Ask,
    repeats: int,
    reading: str,
    generator: torch.Generator,
) -> tuple[Tensor, bool, dict[str, Tensor]]:
    """What the agent knows after each drawn answer [N, R, F], whether q ignored it, and the first
    answers."""
    answers = [imagine_answers(model, latent, ask, repeats, generator) for latent in path]
    told = {key: value[:, 0] for key, value in answers[0].items()}
    keys = [key for key in answers[0] if not (ask.seen and key in ask.seen)]
    raw = [flatten({key: answer[key] for key in keys}, 2) for answer in answers]
    if reading == "answer":
        return _join(raw, ask), False, told
    agents = _references(particles, generator)
    parts: list[Tensor] = []
    nats = math.inf
    for agent in agents:
        known = agent.map(lambda t: t.expand(particles.batch_shape[0], repeats, *t.shape))
        seen = []
        for k, answer in enumerate(answers):
            if ask.action is not None:
                action = ask.action.to(known.h).expand(*known.batch_shape, -1)
                known = model.step(known, action)
            if k == 0 and not parts:
                nats = _nats(model, known, answer, generator)
            statistics = _posterior(model, known, answer, generator)
            if ask.action is not None:
                known = model.condition(known, answer)
                if k > 0:
                    # From the second call on, h holds what the first answer told.
                    statistics = torch.cat([statistics, known.h], -1)
            seen.append(statistics)
        parts.append(_join(seen, ask))
    differ = bool(torch.cat(raw, -1).double().flatten(0, 1).var(0).sum() > 0)
    return torch.cat(parts, -1).double(), differ and nats < LEAST_NATS, told


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


def _references(latents: Latent, generator: torch.Generator) -> list[Latent]:
    if bool((latents.h == latents.h[:1]).all() & (latents.z == latents.z[:1]).all()):
        return [latents[0]]
    index = torch.randperm(latents.batch_shape[0], generator=generator)[:_REFERENCES]
    return [latents[int(i)] for i in index]


def _join(parts: list[Tensor], ask: Ask) -> Tensor:
    """Several calls: averaged where they read the same latent, side by side where it moved."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).mean(0) if ask.action is None else torch.cat(parts, -1)


def flatten(told: Mapping[str, Tensor], lead: int) -> Tensor:
    """Answers key -> [*lead axes, ...] side by side as [*lead axes, F], float64, keys in order."""
    return torch.cat([value.flatten(lead).double() for _, value in sorted(told.items())], -1)


def _nats(
    model: Observer, known: Latent, answer: Mapping[str, Tensor], generator: torch.Generator
) -> float:
    """About how much reading the first answers [N, 0] changes q, in nats per answer: half the
    squared shift of q between answers in units of its own spread."""
    one, told = known[:, 0], {key: value[:, 0] for key, value in answer.items()}
    if model.noise_size == 0:
        return math.inf if bool(model.condition(one, told).z.var(0).sum() > 0) else 0.0
    shift, spread = _movement(model, one, told, generator)
    if shift == 0:
        return 0.0
    return 0.5 * shift / spread if spread > 0 else math.inf


def _movement(
    model: Observer, one: Latent, told: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[float, float]:
    """Variance of q's middle over answers, and of q about it; summed over z's numbers."""
    offered = getattr(model, "posterior_moments", None)
    if callable(offered):
        mean, deviation = offered(one, told)
        return float(mean.var(0).sum()), float(deviation.square().mean(0).sum())
    # The same lucks and their opposites for every answer: their mean is q's middle, their half
    # difference its spread.
    wide = one.expand(_SHARED_DRAWS)
    told = {key: v[:, None].expand(-1, _SHARED_DRAWS, *v.shape[1:]) for key, v in told.items()}
    noise = draw_noise((_SHARED_DRAWS, model.noise_size), generator).to(one.z)
    noise = noise.expand(*one.batch_shape, -1, -1)
    up, down = model.condition(wide, told, noise).z, model.condition(wide, told, -noise).z
    shift = ((up + down) / 2).mean(1).var(0).sum()
    return float(shift), float(((up - down) / 2).square().mean((0, 1)).sum())
