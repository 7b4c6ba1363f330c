"""The training objective: one batch through the network, every term of the document's section 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import ConfigError
from bb_wm.model.dynamics import Filtered
from bb_wm.model.lookup import carry_hots, swapped
from bb_wm.model.losses import LossTerms, balanced_kl, free_nats, past_the_end, reachable
from bb_wm.model.nets import masked_mean, split
from bb_wm.model.network import OUTCOMES
from bb_wm.model.stochastic import check_int
from bb_wm.protocols import draw_noise
from bb_wm.types import stack_latents

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.dynamics import RSSM
    from bb_wm.model.network import Network
    from bb_wm.model.stochastic import Stochastic
    from bb_wm.types import Batch, Latent


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

    @property
    def asked(self) -> tuple[str, ...]:
        """The heads that learn: a term of weight 0 is not computed."""
        return tuple(name for name in OUTCOMES if getattr(self, name) > 0.0)

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


# Rows after which a past is forgotten, on average: a belief of few rows must be learnt wherever it
# begins, for that is what `encode` of a row alone is.
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Noise:
    """All the chance of one update, drawn at one place."""

    filter: Tensor  # [B, T, N] standard normal
    starts: Tensor  # [S] row indices
    forget: int = 0  # the row where every sequence forgets its past; 0: none does

    @classmethod
    def draw(
        cls, batch: Batch, size: int, objective: Objective, generator: torch.Generator
    ) -> Noise:
        """For a batch, on the generator's device; z takes `size` numbers per row."""
        count, rows = batch.shape
        device = generator.device
        noise = draw_noise((count, rows, size), generator, device)
        places = max(1, rows - min(objective.steps, rows - 1))
        order = torch.randperm(places, generator=generator, device=device)
        forget = 0
        if rows > objective.steps:  # a sequence no longer than an open loop has no past to spare
            most = max(_REMEMBERED, rows)
            place = int(torch.randint(most, (), generator=generator, device=device))
            forget = place if place < rows else 0
        return cls(noise, order[: objective.starts].cpu(), forget)


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
    # Nothing else ends there: the rows after it stay the ones that the rows before lead to.
    forgets = torch.zeros_like(batch.is_first)
    if noise.forget:
        forgets[:, noise.forget] = True
    walk = rssm.filter(sight, batch.action, batch.is_first | forgets, noise.filter)
    zero = walk.h.new_zeros(())
    section = imagined = None
    if objective.rollout > 0.0 or objective.shortcut > 0.0:
        steps = min(objective.steps, batch.shape[1] - 1)
        section = cut(rssm, batch, walk, noise.starts, steps)
    groups = [(swapped(walk.h), swapped(walk.z))]  # as they lie in memory
    if section is not None and objective.rollout > 0.0:
        *open_rows, imagined = rssm.open_loop(section.start, section.action)
        groups.append((open_rows[0], open_rows[1]))
    # Real and imagined rows are read in one pass.
    read, *more = read_rows(network, groups, objective.asked)
    read = Read(
        [swapped(one) for one in read.params],
        {name: swapped(said) for name, said in read.outcomes.items()},
    )
    reconstruction = decode_nll(network, read, batch.obs, sight, batch.valid, track, 0)
    roll, short = zero, zero
    if section is not None and imagined is not None:
        roll = rollout_loss(network, section, more[0], imagined, objective, track)
    if section is not None and objective.shortcut > 0.0:
        short = shortcut_loss(network, section, track)
        short = short + next_sight_loss(network, batch, sight.detach(), walk.h, track)
    mask = zero
    if network.mask is not None and batch.action_mask is not None:
        features = torch.cat([walk.h, walk.z], dim=-1)
        mask = masked_mean(network.mask.error(features, batch.action_mask), batch.valid)
    received = batch.valid & ~(batch.is_first | forgets)
    counts = {"reward": received, "safety": received, "continuation": batch.valid}
    errors = network.errors(read.outcomes, batch.reward, batch.safety, batch.terminated)
    kl, raw = filter_kl(rssm.family, walk, objective, updates)
    terms = {
        "reconstruction": masked_mean(reconstruction, batch.valid),
        "kl": masked_mean(kl, batch.valid),
        **dict.fromkeys(OUTCOMES, zero),
        **{name: masked_mean(error, counts[name]) for name, error in errors.items()},
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
    return LossTerms(total=total, kl_raw=masked_mean(raw, batch.valid), **terms)


def filter_kl(
    family: Stochastic, walk: Filtered, objective: Objective, updates: int
) -> tuple[Tensor, Tensor]:
    """KL of posterior and prior [B, T] as the objective wants it, and raw without a gradient."""
    q, p = swapped(walk.posterior), swapped(walk.prior)  # as they lie in memory
    if objective.dynamics is None or objective.representation is None:
        kl = family.kl(q, p)
        raw = kl.detach()
    else:
        kl = balanced_kl(
            family, q, p, dynamics=objective.dynamics, representation=objective.representation
        )
        total = objective.dynamics + objective.representation
        raw = kl.detach() / total if total else family.kl(q.detach(), p.detach())
    return free_nats(swapped(kl), objective.free_at(updates)), swapped(raw)


@dataclass(frozen=True, slots=True)
class Read:
    """What decoder and heads read in rows [*batch]."""

    params: list[Tensor]  # decoder parameters [*batch, ...] of every run of keys
    outcomes: dict[str, Tensor]  # [*batch] per head that learns, before its scale


def read_rows(
    network: Network, groups: list[tuple[Tensor, Tensor]], asked: Sequence[str]
) -> list[Read]:
    """Several groups of rows (h, z) [*batch, .] in one pass."""
    leads = [h.shape[:-1] for h, _ in groups]
    columns = list(zip(*groups, strict=True))
    h, z = (_rows_of(column) for column in columns)
    carry_hots(columns[1], z)
    heads, outcomes = network.read(h, z, asked)
    sizes = [lead.numel() for lead in leads]
    pieces = zip(
        leads, *(torch.split(one, sizes) for one in (*heads, *outcomes.values())), strict=True
    )
    found = []
    for lead, *mine in pieces:
        parts = [torch.unflatten(piece, 0, lead) for piece in mine]
        said = dict(zip(asked, parts[len(heads) :], strict=True))
        found.append(Read(parts[: len(heads)], said))
    return found


def _rows_of(parts: Sequence[Tensor]) -> Tensor:
    """Rows [N, .] of several [*batch, .], one after the other."""
    flat = [part.flatten(0, -2) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


@dataclass(frozen=True, slots=True)
class Section:
    """What open-loop terms need: S starts of B sequences, and the K real rows after each."""

    start: Latent  # [B, S], with its real sight
    action: Tensor  # [B, S, K, A]; action[..., k, :] leads to row k
    sight: Tensor  # [B, S, K, sight]
    posterior: Tensor  # [B, S, K, P]
    obs: dict[str, Tensor]  # [B, S, K, ...], of keys whose likelihood needs more than the sight
    reward: Tensor  # [B, S, K]
    safety: Tensor  # [B, S, K]
    terminated: Tensor  # [B, S, K]
    reachable: Tensor  # [B, S, K]
    past: Tensor  # [B, S, K]; no row is there, the episode has ended on the way


def cut(rssm: RSSM, batch: Batch, walk: Filtered, starts: Tensor, steps: int) -> Section:
    """Pick the rows after each start; the same starts in every sequence."""
    pixels = [key for run in rssm.runs if not run.modality.by_sight for key in run.keys]
    rows = batch.shape[1]
    index = (starts[:, None] + torch.arange(1, steps + 1, device=starts.device)).clamp_max(rows - 1)
    follows = reachable(batch.valid, batch.is_first, starts, steps)
    past = past_the_end(batch.valid, batch.is_first, batch.terminated, starts, steps)
    action = batch.action[:, index - 1]
    # Past the end nothing was done: the last real action goes on.
    last = (starts + follows.sum(-1) - 1).clamp_min(0)
    held = batch.action.take_along_dim(last.unsqueeze(-1), dim=1).unsqueeze(2)
    start = stack_latents([walk.row(t) for t in starts.tolist()])
    return Section(
        # Features that are to be foretold must not learn to be foretold easily and collapse.
        start=replace(start, sight=start.sight.detach()),
        action=torch.where(past.unsqueeze(-1), held, action),
        sight=walk.sight[:, index].detach(),
        posterior=walk.posterior[:, index].detach(),
        obs={key: batch.obs[key][:, index] for key in pixels},
        reward=batch.reward[:, index],
        safety=batch.safety[:, index],
        terminated=batch.terminated[:, index],
        reachable=follows,
        past=past,
    )


def decode_nll(
    network: Network,
    read: Read,
    obs: Mapping[str, Tensor],
    sight: Tensor,
    mask: Tensor,
    track: bool,
    first_row: int,
) -> Tensor:
    """-log p(o | h, z) of rows [B, T], or of rows open loop [B, S, K].

    Running scales keep row 0 for reconstruction and row k for k steps open loop; `first_row` says
    which of them the rows, or their K axis, start at.
    """
    rssm = network.rssm
    total = sight.new_zeros(mask.shape if first_row else (*mask.shape, 1))
    weight = mask.unsqueeze(-1) if first_row == 0 else mask
    sights = split(sight, rssm.sight_sizes)
    for run, params, seen in zip(rssm.runs, read.params, sights, strict=True):
        modality = run.modality
        error = modality.error(params, seen if modality.by_sight else run.pick(obs))
        if first_row == 0:
            error = error.unsqueeze(2)
        if track:
            modality.track(error.detach(), weight, "decode", first_row)
        total = total + modality.nll(error, "decode", first_row)
    return total.squeeze(-1) if first_row == 0 else total


def rollout_loss(
    network: Network,
    section: Section,
    read: Read,
    prior: Tensor,
    objective: Objective,
    track: bool,
) -> Tensor:
    """k steps open loop through the prior's mode: KL to the stopped posteriors, and grounded terms.

    Matching latents alone can be satisfied by collapse; the likelihood of the real rows cannot.
    Past a terminal row there is nothing to predict but that nothing goes on: real rows never lie
    beyond an end, so without this a plan could imagine itself across it.
    """
    mask = section.reachable
    nll = decode_nll(network, read, section.obs, section.sight, mask, track, 1)
    kl = network.rssm.family.kl(section.posterior, prior)
    errors = network.errors(read.outcomes, section.reward, section.safety, section.terminated)
    heads = sum(getattr(objective, name) * error for name, error in errors.items())
    total = masked_mean(nll + objective.overshoot * kl + heads, mask)
    if "continuation" not in errors:
        return total
    ended = network.continuation.error(read.outcomes["continuation"], torch.ones_like(mask))
    return total + objective.continuation * masked_mean(ended, section.past)


def next_sight_loss(
    network: Network, batch: Batch, sight: Tensor, h: Tensor, track: bool
) -> Tensor:
    """One step of the direct path at every row, which needs no walk: h is the filter's own. And
    what each row alone says of the next, which learns from this by itself."""
    rssm = network.rssm
    scaled = rssm.scale_action(batch.action[:, :-1])
    follows = batch.valid[:, 1:] & batch.valid[:, :-1] & ~batch.is_first[:, 1:]

    def nll(predicted: Tensor, raw: Tensor, row: int, seen: Tensor | None) -> Tensor:
        terms = [part.unsqueeze(-2) for part in (predicted, raw, sight[:, 1:])]
        return masked_mean(direct_nll(network, *terms, track=seen, row=row).squeeze(-1), follows)

    # With the running scales of the open loop's first step, and with the last: the row alone's.
    whole, raw = rssm.predict_sight(h[:, 1:], sight[:, :-1], scaled)
    guess = rssm.markov(torch.cat([sight[:, :-1], scaled], dim=-1))
    alone = rssm.advance_sight(sight[:, :-1], guess)
    if track:
        rssm.memory_share.update(sight[:, 1:] - alone, whole - alone, follows)
    seen = follows.unsqueeze(-1) if track else None
    return nll(whole, raw, 0, None) + nll(alone, guess, rssm.steps, seen)


def shortcut_loss(network: Network, section: Section, track: bool) -> Tensor:
    """k steps open loop by the direct path: likelihood of the real sights."""
    predicted, raw = network.rssm.shortcut_loop(section.start, section.action)
    seen = section.reachable if track else None
    nll = direct_nll(network, predicted, raw, section.sight, track=seen)
    return masked_mean(nll, section.reachable)


def direct_nll(
    network: Network,
    predicted: Tensor,
    raw: Tensor,
    target: Tensor,
    *,
    track: Tensor | None,
    row: int = 0,
) -> Tensor:
    """-log p [*, K] of real sights under the direct path's [*, K, S], by the running scales from
    `row` on. Where `track` [*, K] is true these learn from the errors."""
    sizes = network.rssm.sight_sizes
    raws = split(raw, network.rssm.direct_sizes)
    parts = zip(network.rssm.runs, split(predicted, sizes), raws, split(target, sizes), strict=True)
    total = predicted.new_zeros(predicted.shape[:-1])
    for run, mine, output, real in parts:
        modality = run.modality
        error = modality.advance_error(mine, output, real)
        if track is not None:
            modality.track(error.detach(), track, "direct", row)
        total = total + modality.nll(error, "direct", row)
    return total
