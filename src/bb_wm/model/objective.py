"""The training objective: one batch through the network, every term of the document's section 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import ConfigError
from bb_wm.model.dynamics import Filtered, features_of
from bb_wm.model.losses import LossTerms, balanced_kl, free_nats, reachable
from bb_wm.model.nets import masked_mean, split
from bb_wm.model.stochastic import check_int
from bb_wm.types import Latent, stack_latents

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.network import Network
    from bb_wm.types import Batch


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights and forms of the loss terms; `Objective.plain()` is the document's own sum.

    beta multiplies the KL. `dynamics` and `representation` split it (both None: plain KL). `free`
    nats per row are not pushed down, annealed from 1 over the first `free_updates` updates. `steps`
    rows are rolled out from `starts` rows of each sequence for the rollout and shortcut terms;
    `overshoot` weighs the rollout's KL against its grounded likelihoods. `reward` is 10 because one
    number stands beside the likelihoods of whole observations, and plans depend on it.
    """

    beta: float = 1.0
    dynamics: float | None = 1.0
    representation: float | None = 0.1
    free: float = 0.1
    free_updates: int = 1000
    reward: float = 10.0
    safety: float = 1.0
    continuation: float = 1.0
    rollout: float = 1.0
    overshoot: float = 0.1
    shortcut: float = 1.0
    steps: int = 8
    starts: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = f"objective.{field.name}", getattr(self, field.name)
            if field.name in ("steps", "starts"):
                check_int(name, value, low=1, high=1000)
            elif field.name == "free_updates":
                check_int(name, value, low=0, high=10**9)
            elif value is not None or field.name not in ("dynamics", "representation"):
                check_weight(name, value)
        if (self.dynamics is None) != (self.representation is None):
            raise ConfigError(
                "objective.dynamics and objective.representation",
                expected="two numbers, or both None for the plain KL",
                actual=f"{self.dynamics} and {self.representation}",
            )

    @classmethod
    def plain(cls, beta: float = 1.0) -> Objective:
        """l_rec + beta KL + l_reward + l_safety + l_rollout: no balance, free nats or shortcut."""
        return cls(
            beta=beta, dynamics=None, representation=None, free=0.0, reward=1.0, shortcut=0.0
        )

    def free_at(self, updates: int) -> float:
        """Free nats after `updates` updates."""
        if self.free <= 0.0 or self.free_updates == 0:
            return self.free
        share = min(1.0, updates / self.free_updates)
        return max(1.0, self.free) * (1.0 - share) + self.free * share


def check_weight(field: str, value: object) -> None:
    """ConfigError unless value is a finite number >= 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0.0 <= float(value) < float("inf"):  # type: ignore[arg-type]
        raise ConfigError(field, expected="a finite number >= 0", actual=repr(value))


@dataclass(frozen=True, slots=True)
class Noise:
    """All the chance of one update, drawn at one place."""

    filter: Tensor  # [B, T, N] standard normal
    starts: Tensor  # [S] row indices


def evaluate_terms(
    network: Network,
    batch: Batch,
    objective: Objective,
    noise: Noise,
    *,
    updates: int,
    track: bool,
) -> LossTerms:
    """All loss terms of a batch. With `track`, running scales learn from its errors first."""
    rssm = network.rssm
    sight = rssm.look(batch.obs)
    walk = rssm.filter(sight, batch.action, batch.is_first, noise.filter)
    features = torch.cat([walk.h, walk.z], dim=-1)
    received = batch.valid & ~batch.is_first
    zero = features.new_zeros(())

    raw = rssm.family.kl(walk.posterior, walk.prior)
    kl = raw
    if objective.dynamics is not None and objective.representation is not None:
        kl = balanced_kl(
            rssm.family,
            walk.posterior,
            walk.prior,
            dynamics=objective.dynamics,
            representation=objective.representation,
        )
    kl = free_nats(kl, objective.free_at(updates))
    reconstruction = decode_nll(network, features.unsqueeze(-2), batch.obs, batch.valid, track, 0)
    roll, short = zero, zero
    if objective.rollout > 0.0 or objective.shortcut > 0.0:
        steps = min(objective.steps, batch.shape[1] - 1)
        section = cut(batch, sight, walk, noise.starts, steps)
        if objective.rollout > 0.0:
            roll = rollout_loss(network, section, objective, track)
        if objective.shortcut > 0.0:
            short = shortcut_loss(network, section, track)
            short = short + next_sight_loss(network, batch, sight, walk.h)
    mask = zero
    if network.mask is not None and batch.action_mask is not None:
        mask = masked_mean(network.mask.error(features, batch.action_mask), batch.valid)
    terms = {
        "reconstruction": masked_mean(reconstruction, batch.valid),
        "kl": masked_mean(kl, batch.valid),
        "reward": masked_mean(network.reward.error(features, batch.reward), received),
        "safety": masked_mean(network.risk.error(features, batch.safety), received),
        "continuation": masked_mean(
            network.continuation.error(features, batch.terminated), batch.valid
        ),
        "rollout": roll,
        "shortcut": short,
        "mask": mask,
    }
    total = (
        terms["reconstruction"]
        + objective.beta * terms["kl"]
        + objective.reward * terms["reward"]
        + objective.safety * terms["safety"]
        + objective.continuation * (terms["continuation"] + mask)
        + objective.rollout * roll
        + objective.shortcut * short
    )
    return LossTerms(total=total, kl_raw=masked_mean(raw.detach(), batch.valid), **terms)


@dataclass(frozen=True, slots=True)
class Section:
    """What open-loop terms need: S starts of B sequences, and the K real rows after each."""

    start: Latent  # [B, S], with its real sight
    action: Tensor  # [B, S, K, A]; action[..., k, :] leads to row k
    sight: Tensor  # [B, S, K, sight]
    posterior: Tensor  # [B, S, K, P]
    obs: dict[str, Tensor]  # [B, S, K, ...]
    reward: Tensor  # [B, S, K]
    safety: Tensor  # [B, S, K]
    terminated: Tensor  # [B, S, K]
    reachable: Tensor  # [B, S, K]


def cut(batch: Batch, sight: Tensor, walk: Filtered, starts: Tensor, steps: int) -> Section:
    """Pick the rows after each start; the same starts in every sequence."""
    rows = batch.shape[1]
    index = (starts[:, None] + torch.arange(1, steps + 1, device=starts.device)).clamp_max(rows - 1)
    return Section(
        start=stack_latents([walk.latents[int(t)] for t in starts]),
        action=batch.action[:, index - 1],
        sight=sight[:, index],
        posterior=walk.posterior[:, index].detach(),
        obs={key: value[:, index] for key, value in batch.obs.items()},
        reward=batch.reward[:, index],
        safety=batch.safety[:, index],
        terminated=batch.terminated[:, index],
        reachable=reachable(batch.valid, batch.is_first, starts, steps),
    )


def decode_nll(
    network: Network,
    features: Tensor,
    obs: Mapping[str, Tensor],
    mask: Tensor,
    track: bool,
    first_row: int,
) -> Tensor:
    """-log p(o | h, z): by row [B, T, 1, F] -> [B, T], or open loop [B, S, K, F] -> [B, S, K].

    Running scales keep row 0 for reconstruction and row k for k steps open loop; `first_row` says
    which of them the K axis starts at.
    """
    rssm = network.rssm
    trunk = rssm.decode_trunk(features)
    total = trunk.new_zeros(trunk.shape[:-1])
    for i, key in enumerate(rssm.keys):
        modality = rssm.modality(i)
        target = obs[key]
        if first_row == 0:
            target = target.unsqueeze(2)
        error = modality.error(modality.head(trunk), target)
        weight = mask.unsqueeze(-1) if first_row == 0 else mask
        if track:
            modality.track(error.detach(), weight, "decode", first_row)
        total = total + modality.nll(error, "decode", first_row)
    return total.squeeze(-1) if first_row == 0 else total


def rollout_loss(network: Network, section: Section, objective: Objective, track: bool) -> Tensor:
    """k steps open loop through the prior's mode: KL to the stopped posteriors, and grounded terms.

    Matching latents alone can be satisfied by collapse; the likelihood of the real rows cannot.
    """
    rssm = network.rssm
    latent, latents, priors = section.start, [], []
    for k in range(section.action.shape[2]):
        projected = rssm.core.project(rssm.scale_action(section.action[:, :, k]))
        h, memory = rssm.advance(latent, projected)
        params = rssm.prior(h)
        latent = Latent(h, rssm.family.mode(params), memory, latent.sight)
        latents.append(features_of(latent))
        priors.append(params)
    features = torch.stack(latents, dim=2)
    mask = section.reachable
    nll = decode_nll(network, features, section.obs, mask, track, 1)
    kl = rssm.family.kl(section.posterior, torch.stack(priors, dim=2))
    reward = network.reward.error(features, section.reward)
    risk = network.risk.error(features, section.safety)
    goes_on = network.continuation.error(features, section.terminated)
    heads = objective.reward * reward + objective.safety * risk + objective.continuation * goes_on
    return masked_mean(nll + objective.overshoot * kl + heads, mask)


def next_sight_loss(network: Network, batch: Batch, sight: Tensor, h: Tensor) -> Tensor:
    """One step of the direct path at every row, which needs no walk: h is the filter's own."""
    rssm = network.rssm
    scaled = rssm.scale_action(batch.action[:, :-1])
    predicted, raw = rssm.predict_sight(h[:, 1:], sight[:, :-1], scaled)
    # One horizon, with the running scales of the open loop's first step.
    terms = [part.unsqueeze(-2) for part in (predicted, raw, sight[:, 1:])]
    nll = direct_nll(network, *terms, track=None).squeeze(-1)
    follows = batch.valid[:, 1:] & batch.valid[:, :-1] & ~batch.is_first[:, 1:]
    return masked_mean(nll, follows)


def shortcut_loss(network: Network, section: Section, track: bool) -> Tensor:
    """k steps open loop by the direct path: likelihood of the real sights."""
    rssm = network.rssm
    latent, sights, raws = section.start, [], []
    for k in range(section.action.shape[2]):
        latent, raw = rssm.shortcut_step(latent, section.action[:, :, k])
        sights.append(latent.sight)
        raws.append(raw)
    predicted, raw = torch.stack(sights, dim=2), torch.stack(raws, dim=2)
    seen = section.reachable if track else None
    nll = direct_nll(network, predicted, raw, section.sight, track=seen)
    return masked_mean(nll, section.reachable)


def direct_nll(
    network: Network, predicted: Tensor, raw: Tensor, target: Tensor, *, track: Tensor | None
) -> Tensor:
    """-log p [*, K] of real sights under the direct path's [*, K, S]. Where `track` [*, K] is true
    the running scales learn from the errors."""
    sizes = network.rssm.sight_sizes
    raws = split(raw, network.rssm.direct_sizes)
    parts = zip(split(predicted, sizes), raws, split(target, sizes), strict=True)
    total = predicted.new_zeros(predicted.shape[:-1])
    for i, (mine, output, real) in enumerate(parts):
        modality = network.rssm.modality(i)
        error = modality.advance_error(mine, output, real)
        if track is not None:
            modality.track(error.detach(), track, "direct", 0)
        total = total + modality.nll(error, "direct", 0)
    return total
