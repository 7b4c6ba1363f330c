"""The recurrent state-space model: filter along real rows, step through imagined ones.

h_t = f(h_{t-1}, z_{t-1}, a_{t-1})          core
z_t ~ q(z_t | h_t, o_t)                     posterior
z_t ~ p(z_t | h_t)                          prior
o_t = d(h_t, o_{t-1}, a_{t-1})              shortcut: z_t is skipped, then read off o_t
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model.modalities import Modality, modality_of
from bb_wm.model.nets import MLP, Statistics, split
from bb_wm.types import ActionSpec, Latent, ObsSpec

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.cores import Core
    from bb_wm.model.stochastic import Stochastic


@dataclass(frozen=True, slots=True)
class Filtered:
    """A filter's walk along B sequences of T rows, kept by row so that starts can be picked."""

    latents: list[Latent]  # T latents [B], z sampled
    posterior: Tensor  # [B, T, P]
    prior: Tensor  # [B, T, P]
    h: Tensor  # [B, T, D]
    z: Tensor  # [B, T, Z]


class RSSM(nn.Module):
    """Modalities, core, prior, posterior, shortcut and decoder for one pair of spaces."""

    def __init__(
        self,
        obs_spec: ObsSpec,
        action_spec: ActionSpec,
        *,
        core: Core,
        latent: Stochastic,
        hidden: int,
        layers: int,
        steps: int,
        features: int,
        fixed_scale: bool,
    ) -> None:
        super().__init__()
        self.keys = tuple(entry.key for entry in obs_spec.entries)
        self.family = latent
        self.core = core.build(latent.size, action_spec.size)
        self.latent_size = core.size + latent.size
        trunk = hidden + self.latent_size
        self.modalities = nn.ModuleList(
            modality_of(entry, trunk, steps, features=features, fixed_scale=fixed_scale)
            for entry in obs_spec.entries
        )
        self.sight_sizes = [self.modality(i).sight_size for i in range(len(self.keys))]
        self.direct_sizes = [self.modality(i).direct_size for i in range(len(self.keys))]
        sight = self.sight_size = sum(self.sight_sizes)
        self.encoder = MLP(sight, hidden, hidden=hidden, layers=1)
        self.sight_to_posterior = nn.Linear(sight, latent.param_size)
        self.h_to_posterior = nn.Linear(core.size, hidden)
        self.posterior_output = nn.Linear(hidden, latent.param_size)
        self.prior_net = MLP(core.size, latent.param_size, hidden=hidden, layers=1)
        self.trunk = MLP(self.latent_size, hidden, hidden=hidden, layers=max(1, layers - 1))
        self.direct = MLP(
            core.size + sight + action_spec.size,
            sum(self.direct_sizes),
            hidden=hidden,
            layers=layers,
            zero=True,
        )
        low, high = (torch.from_numpy(bound) for bound in action_spec.bounds())
        bounded = torch.isfinite(low) & torch.isfinite(high)
        one_hot = torch.zeros(action_spec.size, dtype=torch.bool)
        for part, place in action_spec.slices():
            one_hot[place] = part.kind == "discrete"
        middle = torch.where(bounded & ~one_hot, (low + high) / 2, 0.0)
        half = torch.where(bounded & ~one_hot, (high - low) / 2, 1.0).clamp_min(1e-6)
        self.register_buffer("action_middle", middle)
        self.register_buffer("action_half", half)
        self.register_buffer("action_free", ~bounded & ~one_hot)
        self.action_statistics = Statistics(action_spec.size)

    action_middle: Tensor
    action_half: Tensor
    action_free: Tensor

    def modality(self, index: int) -> Modality:
        return cast("Modality", self.modalities[index])

    # --- observations and actions in model units ------------------------------------------------

    def look(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observation per key -> sight [*batch, S]."""
        sights = [self.modality(i).look(obs[key]) for i, key in enumerate(self.keys)]
        return sights[0] if len(sights) == 1 else torch.cat(sights, dim=-1)

    def scale_action(self, action: Tensor) -> Tensor:
        """Flat action -> [-1, 1] for boxes, standardised where unbounded, one-hots as they are."""
        middle = torch.where(self.action_free, self.action_statistics.centre, self.action_middle)
        half = torch.where(self.action_free, self.action_statistics.scale, self.action_half)
        return (action - middle) / half

    # --- beliefs --------------------------------------------------------------------------------

    def empty(self, batch_shape: tuple[int, ...]) -> Latent:
        """The belief before anything was seen: zeros."""
        like = self.action_middle

        def zeros(*sizes: int) -> Tensor:
            return like.new_zeros(*batch_shape, *sizes)

        return Latent(
            zeros(self.core.size),
            zeros(self.family.size),
            zeros(self.core.window, self.core.memory_size),
            zeros(0),
        )

    def embed(self, sight: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the posterior that depend on the sight alone."""
        return self.encoder(sight), self.sight_to_posterior(sight)

    def posterior(self, h: Tensor, embedded: tuple[Tensor, Tensor]) -> Tensor:
        """Parameters of q(z | h, o)."""
        hidden = F.silu(self.h_to_posterior(h) + embedded[0])
        return torch.add(self.posterior_output(hidden), embedded[1])

    def prior(self, h: Tensor) -> Tensor:
        """Parameters of p(z | h)."""
        return cast("Tensor", self.prior_net(h))

    def advance(
        self, latent: Latent, projected: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(h, memory) of the next row; where keep [*batch] is 0 the past is forgotten."""
        h, z, memory = latent.h, latent.z, latent.memory
        if keep is not None:
            gate = keep.unsqueeze(-1)
            h, z, projected = h * gate, z * gate, projected * gate
            if memory.shape[-2]:
                memory = memory * gate.unsqueeze(-1)
        return cast("tuple[Tensor, Tensor]", self.core(h, z, memory, projected))

    def filter(
        self,
        sight: Tensor,
        action: Tensor,
        is_first: Tensor,
        noise: Tensor | None,
        start: Latent | None = None,
    ) -> Filtered:
        """Walk along rows: sight [B, T, S], action [B, T, A], is_first [B, T], noise [B, T, N].

        Row t's latent has seen sights up to t and actions up to t - 1. Row 0 begins from an empty
        belief (or from `start`, whose action is taken to have been none).
        """
        batch, rows = sight.shape[:2]
        fresh = self.empty((batch,)) if start is None else start
        current = Latent(fresh.h, fresh.z, fresh.memory, sight[:, 0])
        projected = self.core.project(self.scale_action(action))
        keep = (~is_first).to(sight.dtype)
        hidden, skip = self.embed(sight)
        none = torch.zeros_like(projected[:, 0])
        latents: list[Latent] = []
        posteriors: list[Tensor] = []
        for t in range(rows):
            done = projected[:, t - 1] if t else none
            h, memory = self.advance(current, done, keep[:, t])
            params = self.posterior(h, (hidden[:, t], skip[:, t]))
            z = self.draw(params, None if noise is None else noise[:, t])
            current = Latent(h, z, memory, sight[:, t])
            latents.append(current)
            posteriors.append(params)
        h = torch.stack([latent.h for latent in latents], dim=1)
        z = torch.stack([latent.z for latent in latents], dim=1)
        return Filtered(latents, torch.stack(posteriors, dim=1), self.prior(h), h, z)

    def draw(self, params: Tensor, noise: Tensor | None) -> Tensor:
        """A sample of z, or its mode when there is no noise."""
        return self.family.mode(params) if noise is None else self.family.sample(params, noise)

    def read(self, latent: Latent, sight: Tensor, noise: Tensor | None = None) -> Latent:
        """The latent after seeing `sight` in its own row: h stays, z ~ q(z | h, o)."""
        params = self.posterior(latent.h, self.embed(sight))
        return Latent(latent.h, self.draw(params, noise), latent.memory, sight)

    # --- imagination ----------------------------------------------------------------------------

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        """One imagined row through the prior. Nothing is decoded: the sight comes out empty."""
        h, memory = self.advance(latent, self.core.project(self.scale_action(action)))
        z = self.draw(self.prior(h), noise)
        return Latent(h, z, memory, h.new_zeros(*h.shape[:-1], 0))

    def shortcut_step(self, latent: Latent, action: Tensor) -> tuple[Latent, Tensor]:
        """One imagined row by the direct path, and the direct net's raw output.

        The row's sight is predicted from (h, last sight, action) before any z, then read as if it
        had been seen, which refreshes h for the row after; the prior is never asked.
        """
        scaled = self.scale_action(action)
        h, memory = self.advance(latent, self.core.project(scaled))
        sight, raw = self.predict_sight(h, latent.sight, scaled)
        params = self.posterior(h, self.embed(sight))
        return Latent(h, self.family.mode(params), memory, sight), raw

    def predict_sight(
        self, h: Tensor, sight: Tensor, scaled_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The row's sight from its h and the last row's sight and action, and the raw output."""
        raw = self.direct(torch.cat([h, sight, scaled_action], dim=-1))
        pieces = zip(split(sight, self.sight_sizes), split(raw, self.direct_sizes), strict=True)
        moved = [self.modality(i).advance(a, b) for i, (a, b) in enumerate(pieces)]
        return (moved[0] if len(moved) == 1 else torch.cat(moved, dim=-1)), raw

    # --- decoding -------------------------------------------------------------------------------

    def decode_trunk(self, features: Tensor) -> Tensor:
        """(h, z) [*batch, D + Z] -> what every modality's decoder head reads."""
        return torch.cat([F.silu(self.trunk(features)), features], dim=-1)

    def decode(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        """o ~ p(o | h, z) per key in data units; the most probable one without noise."""
        trunk = self.decode_trunk(features_of(latent))
        sizes = [self.modality(i).noise_size for i in range(len(self.keys))]
        noises = [None] * len(sizes) if noise is None else split(noise, sizes)
        return {
            key: self.modality(i).decode(self.modality(i).head(trunk), noises[i])
            for i, key in enumerate(self.keys)
        }

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        """log p(obs | h, z) [*batch], in nats of the model's units; of the keys that are given."""
        trunk = self.decode_trunk(features_of(latent))
        total = trunk.new_zeros(trunk.shape[:-1])
        for i, key in enumerate(self.keys):
            if key not in obs:
                continue
            modality = self.modality(i)
            error = modality.error(modality.head(trunk), obs[key])
            # Row 0 of the running scales is the reconstruction's.
            total = total - modality.nll(error.unsqueeze(-2), "decode", 0).squeeze(-1)
        return total

    def show(self, latent: Latent) -> dict[str, Tensor]:
        """The latent's sight in data units; keys whose sight cannot be shown are decoded."""
        pieces = split(latent.sight, self.sight_sizes)
        shown = [self.modality(i).show(piece) for i, piece in enumerate(pieces)]
        if any(one is None for one in shown):
            decoded = self.decode(latent)
            return {
                key: decoded[key] if one is None else one
                for key, one in zip(self.keys, shown, strict=True)
            }
        return {key: cast("Tensor", one) for key, one in zip(self.keys, shown, strict=True)}

    @property
    def obs_noise_size(self) -> int:
        return sum(self.modality(i).noise_size for i in range(len(self.keys)))


def features_of(latent: Latent) -> Tensor:
    """(h, z) side by side, what heads and decoder read."""
    return torch.cat([latent.h, latent.z], dim=-1)
