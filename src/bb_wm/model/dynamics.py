"""The recurrent state-space model: filter along real rows, step through imagined ones.

h_t = f(h_{t-1}, z_{t-1}, a_{t-1})          core
z_t ~ q(z_t | h_t, o_t)                     posterior
z_t ~ p(z_t | h_t)                          prior
o_t = g(o_{t-1}, a_{t-1})                   shortcut: z_t is skipped, then read off o_t;
      + d(h_t, o_{t-1}, a_{t-1})              what the row alone says, and what memory adds to it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model.lookup import LatentLinear, note_hots, swapped
from bb_wm.model.modalities import Modality, modality_of, runs_of
from bb_wm.model.nets import MLP, RunningShare, Statistics, share_gradient, split
from bb_wm.model.products import Linear
from bb_wm.model.recurrence import FilterLoop, OpenLoop, ShortcutLoop, posterior_tape
from bb_wm.model.tape import Affine, Perceptron, walk
from bb_wm.types import ActionSpec, Latent, ObsSpec

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.cores import Core
    from bb_wm.model.stochastic import Stochastic


@dataclass(frozen=True, slots=True)
class Filtered:
    """A filter's walk along B sequences of T rows; z is sampled where there was noise."""

    h: Tensor  # [B, T, D]
    z: Tensor  # [B, T, Z]
    memories: list[Tensor]  # T of [B, L, M]
    sight: Tensor  # [B, T, S]
    posterior: Tensor  # [B, T, P]
    prior: Tensor  # [B, T, P]

    def row(self, t: int) -> Latent:
        """The latent [B] of row t."""
        return Latent(self.h[:, t], self.z[:, t], self.memories[t], self.sight[:, t])


class RSSM(nn.Module):
    """Modalities, core, prior, posterior, shortcut and decoder for one pair of spaces.

    `steps` is the open loop's length in training.
    """

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
        for layer in self.core.modules():
            if isinstance(layer, LatentLinear):
                layer.hots = latent.hots
        self.latent_size = core.size + latent.size
        trunk = hidden + self.latent_size
        self.modalities = nn.ModuleList(
            modality_of(entry, trunk, steps, features=features, fixed_scale=fixed_scale)
            for entry in obs_spec.entries
        )
        # A plain list: the modalities own their parameters, runs only use them.
        self.runs = runs_of(self.keys, [self.modality(i) for i in range(len(self.keys))])
        self.sight_sizes = [run.modality.sight_size for run in self.runs]
        self.direct_sizes = [run.modality.direct_size for run in self.runs]
        sight = self.sight_size = sum(self.sight_sizes)
        self.encoder = MLP(sight, hidden, hidden=hidden, layers=1)
        self.sight_to_posterior = nn.Linear(sight, latent.param_size)
        self.h_to_posterior = Linear(core.size, hidden)
        self.posterior_output = Linear(hidden, latent.param_size)
        # A linear path to the logits of classes would double the products and bring nothing.
        bypass = latent.hots is None
        self.prior_net = MLP(core.size, latent.param_size, hidden=hidden, layers=1, bypass=bypass)
        self.trunk = MLP(
            self.latent_size,
            hidden,
            hidden=hidden,
            layers=max(1, layers - 1),
            bypass=bypass,
            hots=latent.hots,
        )
        self.direct = MLP(
            core.size + sight + action_spec.size,
            sum(self.direct_sizes),
            hidden=hidden,
            layers=layers,
            zero=True,
        )
        self.markov = MLP(
            sight + action_spec.size,
            sum(self.direct_sizes),
            hidden=hidden,
            layers=layers,
            zero=True,
        )
        mixes = [torch.full((run.modality.sight_size,), run.modality.mixes) for run in self.runs]
        self.memory_share = RunningShare(torch.cat(mixes))
        self.steps = steps
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
        sights = [run.modality.look(run.pick(obs)) for run in self.runs]
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
        fresh = self.empty((sight.shape[0],)) if start is None else start
        keep = (~is_first).to(sight.dtype).unsqueeze(-1)
        tape = self.core.tape()
        # Rows of all sequences side by side: the loop then reads and writes memory in order.
        by_time = sight.transpose(0, 1)
        keep = keep.transpose(0, 1)
        projected = self.core.project(self.scale_action(action[:, :-1].transpose(0, 1)))
        # What was done in a row enters the next one; what was done before a reset enters none.
        projected = F.pad(projected, (0, 0, 0, 0, 1, 0)) * keep
        if tape is None:
            return self._filter_by_autograd(
                fresh, projected, keep, self.embed(by_time), sight, noise
            )
        resets = is_first.any(0).tolist()
        loop = FilterLoop(
            tape,
            posterior_tape(self.h_to_posterior, self.posterior_output),
            self.family,
            None if noise is None else noise.unbind(1),
            [gate if there else None for gate, there in zip(keep, resets, strict=True)],
        )
        hidden = self.encoder(by_time) + self.h_to_posterior.bias
        skip_bias = self.sight_to_posterior.bias + self.posterior_output.bias
        skip = F.linear(by_time, self.sight_to_posterior.weight, skip_bias)
        h, z, posterior = walk(loop, tape.enter(projected), hidden, skip, fresh.h, fresh.z)
        note_hots(loop.index, z)
        memories = [fresh.memory] * sight.shape[1]
        h, z, posterior, prior = (swapped(x) for x in (h, z, posterior, self.prior(h)))
        return Filtered(h, z, memories, sight, posterior, prior)

    def _filter_by_autograd(
        self,
        current: Latent,
        projected: Tensor,
        keep: Tensor,
        embedded: tuple[Tensor, Tensor],
        sight: Tensor,
        noise: Tensor | None,
    ) -> Filtered:
        rows: list[Latent] = []
        posteriors: list[Tensor] = []
        for t in range(sight.shape[1]):
            h, memory = self.advance(current, projected[t], keep[t, :, 0])
            params = self.posterior(h, (embedded[0][t], embedded[1][t]))
            z = self.draw(params, None if noise is None else noise[:, t])
            current = Latent(h, z, memory, sight[:, t])
            rows.append(current)
            posteriors.append(params)
        h = torch.stack([row.h for row in rows], dim=1)
        z = torch.stack([row.z for row in rows], dim=1)
        posterior, memories = torch.stack(posteriors, dim=1), [row.memory for row in rows]
        return Filtered(h, z, memories, sight, posterior, self.prior(h))

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

    def shortcut_step(
        self, latent: Latent, action: Tensor, *, learning: bool = False
    ) -> tuple[Latent, Tensor]:
        """One imagined row by the direct path, and the direct net's raw output.

        The row's sight is predicted from (h, last sight, action) before any z, then read as if it
        had been seen, which refreshes h for the row after; the prior is never asked.
        """
        scaled = self.scale_action(action)
        h, memory = self.advance(latent, self.core.project(scaled))
        predict = self.predict_sight if learning else self.foresee
        sight, raw = predict(h, latent.sight, scaled)
        params = self.posterior(h, self.embed(sight))
        return Latent(h, self.family.mode(params), memory, sight), raw

    def open_loop(self, start: Latent, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h [*batch, K, D], z [*batch, K, Z] and prior [*batch, K, P] of K rows imagined by the
        prior's mode, from start [*batch] under action [*batch, K, A]; for training."""
        projected = self.core.project(self.scale_action(action))
        tape = self.core.tape()
        if tape is None:
            latent, rows = start, []
            for k in range(action.shape[-2]):
                h, memory = self.advance(latent, projected[..., k, :])
                params = self.prior(h)
                latent = Latent(h, self.family.mode(params), memory, latent.sight)
                rows.append((h, latent.z, params))
            h, z, prior = (torch.stack(column, dim=-2) for column in zip(*rows, strict=True))
            return h, z, prior
        lead = action.shape[:-2]
        loop = OpenLoop(tape, Perceptron(self.prior_net), self.family)
        flat, entered = start.flatten(), tape.enter(projected).flatten(0, len(lead) - 1)
        h, z, prior = walk(loop, entered, flat.h, flat.z)
        h, z, prior = (torch.unflatten(part, 0, lead) for part in (h, z, prior))
        return h, z, prior

    def shortcut_loop(self, start: Latent, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sight [*batch, K, S] and the direct net's raw output of K rows by the direct path, from
        start [*batch] with its sight, under action [*batch, K, A]; for training."""
        tape = self.core.tape()
        if tape is None:
            latent, sights, raws = start, [], []
            for k in range(action.shape[-2]):
                latent, raw = self.shortcut_step(latent, action[..., k, :], learning=True)
                sights.append(latent.sight)
                raws.append(raw)
            return torch.stack(sights, dim=-2), torch.stack(raws, dim=-2)
        lead = action.shape[:-2]
        scaled = self.scale_action(action).flatten(0, len(lead) - 1)
        loop = ShortcutLoop(
            tape,
            Perceptron(self.direct),
            Perceptron(self.markov, held=True),
            Perceptron(self.encoder),
            Affine(self.sight_to_posterior, bias=False),
            posterior_tape(self.h_to_posterior, self.posterior_output),
            self.family,
            self.advance_sight,
            self.memory_share.value.mean(),
        )
        flat, entered = start.flatten(), tape.enter(self.core.project(scaled))
        skip_bias = self.sight_to_posterior.bias + self.posterior_output.bias
        biases = (self.h_to_posterior.bias, skip_bias)
        sight, raw = walk(loop, entered, scaled, flat.h, flat.z, flat.sight, *biases)
        return torch.unflatten(sight, 0, lead), torch.unflatten(raw, 0, lead)

    def predict_sight(
        self, h: Tensor, sight: Tensor, scaled_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The row's sight from its h and the last row's sight and action, and the raw output.

        What the row alone says is taken as it is: it learns by itself, and memory learns what is
        left of it. Where rows tell everything nothing is left, and no error of h disturbs; h learns
        from memory's part as far as that comes true.
        """
        shared = share_gradient(h, self.memory_share.value.mean())
        raw = self.guess(sight, scaled_action) + self.remember(shared, sight, scaled_action)
        return self.advance_sight(sight, raw), raw

    def foresee(self, h: Tensor, sight: Tensor, scaled_action: Tensor) -> tuple[Tensor, Tensor]:
        """As `predict_sight`, with what memory adds weighed by how much of it comes true: where
        rows tell everything its part is noise, which stays in learning and out of beliefs. What
        is foretold stays near what was ever seen.
        """
        guess = self.guess(sight, scaled_action)
        raw = guess + self.remember(h, sight, scaled_action)
        alone, whole = self.advance_sight(sight, guess), self.advance_sight(sight, raw)
        return self.settle_sight(torch.lerp(alone, whole, self.memory_share.value)), raw

    def remember(self, h: Tensor, sight: Tensor, scaled_action: Tensor) -> Tensor:
        """What memory adds to the direct path's raw output."""
        return cast("Tensor", self.direct(torch.cat([h, sight, scaled_action], dim=-1)))

    def guess(self, sight: Tensor, scaled_action: Tensor) -> Tensor:
        """The direct path's raw output from a row's sight and action alone, without memory; its
        parameters are held."""
        return self.markov.held(torch.cat([sight, scaled_action], dim=-1))

    def advance_sight(self, sight: Tensor, raw: Tensor) -> Tensor:
        """The next sight from this one and the direct net's raw output."""
        if len(self.runs) == 1:
            return self.runs[0].modality.advance(sight, raw)
        pieces = zip(split(sight, self.sight_sizes), split(raw, self.direct_sizes), strict=True)
        moved = [run.modality.advance(*p) for run, p in zip(self.runs, pieces, strict=True)]
        return torch.cat(moved, dim=-1)

    def settle_sight(self, sight: Tensor) -> Tensor:
        """A foretold sight, every part of it kept near what was ever seen."""
        if len(self.runs) == 1:
            return self.runs[0].modality.settle(sight)
        pieces = zip(self.runs, split(sight, self.sight_sizes), strict=True)
        return torch.cat([run.modality.settle(piece) for run, piece in pieces], dim=-1)

    # --- decoding -------------------------------------------------------------------------------

    def decode_trunk(self, features: Tensor) -> Tensor:
        """(h, z) [*batch, D + Z] -> what every modality's decoder head reads."""
        return torch.cat([F.silu(self.trunk(features)), features], dim=-1)

    def decode(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        """o ~ p(o | h, z) per key in data units; the most probable one without noise."""
        trunk = self.decode_trunk(features_of(latent))
        sizes = [run.modality.noise_size for run in self.runs]
        noises = [None] * len(sizes) if noise is None else split(noise, sizes)
        found: dict[str, Tensor] = {}
        for run, mine in zip(self.runs, noises, strict=True):
            found |= run.by_key(run.modality.decode(run.modality.head(trunk), mine))
        return found

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        """log p(obs | h, z) [*batch], in nats of the model's units; of the keys that are given."""
        trunk = self.decode_trunk(features_of(latent))
        total = trunk.new_zeros(trunk.shape[:-1])
        # Key by key, not run by run: any of them may be missing.
        for i, key in enumerate(self.keys):
            if key not in obs:
                continue
            modality = self.modality(i)
            target = modality.look(obs[key]) if modality.by_sight else obs[key]
            error = modality.error(modality.head(trunk), target)
            # Row 0 of the running scales is the reconstruction's.
            total = total - modality.nll(error.unsqueeze(-2), "decode", 0).squeeze(-1)
        return total

    def next_log_likelihood(
        self, latent: Latent, action: Tensor, obs: Mapping[str, Tensor]
    ) -> Tensor:
        """log p(o' | h, o, a) [*batch] of the next row's obs by the direct path; of given keys."""
        scaled = self.scale_action(action)
        h, _ = self.advance(latent, self.core.project(scaled))
        sight, raw = self.foresee(h, latent.sight, scaled)
        mine = [self.modality(i) for i in range(len(self.keys))]
        sights = split(sight, [one.sight_size for one in mine])
        raws = split(raw, [one.direct_size for one in mine])
        total = sight.new_zeros(sight.shape[:-1])
        for key, modality, predicted, output in zip(self.keys, mine, sights, raws, strict=True):
            if key in obs:
                error = modality.advance_error(predicted, output, modality.look(obs[key]))
                total = total - modality.nll(error.unsqueeze(-2), "direct", 0).squeeze(-1)
        return total

    def show(self, latent: Latent) -> dict[str, Tensor]:
        """The latent's sight in data units; keys whose sight cannot be shown are decoded."""
        pieces = zip(self.runs, split(latent.sight, self.sight_sizes), strict=True)
        shown = [run.modality.show(piece) for run, piece in pieces]
        decoded = self.decode(latent) if any(one is None for one in shown) else {}
        found: dict[str, Tensor] = {}
        for run, one in zip(self.runs, shown, strict=True):
            found |= {k: decoded[k] for k in run.keys} if one is None else run.by_key(one)
        return found

    @property
    def obs_noise_size(self) -> int:
        return sum(run.modality.noise_size for run in self.runs)


def features_of(latent: Latent) -> Tensor:
    """(h, z) side by side, what heads and decoder read."""
    return torch.cat([latent.h, latent.z], dim=-1)
