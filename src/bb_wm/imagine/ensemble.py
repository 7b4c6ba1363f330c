"""Several models as one: every particle belongs to one member for good (joint draws)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import ConfigError, LatentError
from bb_wm.imagine.belief import Belief

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Observer
    from bb_wm.types import Latent


class Ensemble:
    """Members of equal sizes behind one Observer; h starts with the member's number.

    Which model is right is part of what one does not know, so a particle is (member, latent), and
    reading an answer reweights members too. Averaging the members' own values instead forgets
    what an answer tells about the members.
    """

    def __init__(self, members: Sequence[Observer]) -> None:
        if not members:
            raise ConfigError("members", expected="at least one model", actual="none")
        for name in ("noise_size", "obs_noise_size", "action_size"):
            sizes = [getattr(member, name) for member in members]
            if len(set(sizes)) > 1:
                raise ConfigError("members", expected=f"one {name}", actual=sizes)
        self.members = tuple(members)

    @property
    def noise_size(self) -> int:
        return self.members[0].noise_size

    @property
    def obs_noise_size(self) -> int:
        return self.members[0].obs_noise_size

    @property
    def action_size(self) -> int:
        return self.members[0].action_size

    def belief(self, latents: Sequence[Latent], prior: Tensor | None = None) -> Belief:
        """One belief of all members' particles: member m's latents [*batch, N_m].

        `prior` [M] is the probability of each member (equal when None), spread evenly over its
        particles.
        """
        if len(latents) != len(self.members):
            raise LatentError(
                "latents", expected=f"{len(self.members)} of them", actual=len(latents)
            )
        tagged, logs = [], []
        for number, latent in enumerate(latents):
            tagged.append(tag(latent, number))
            share = 1.0 / len(latents) if prior is None else float(prior[number])
            size = share / max(latent.batch_shape[-1], 1)
            logs.append(latent.h.new_full(latent.batch_shape, size).log())
        axis = len(latents[0].batch_shape) - 1
        names = ("h", "z", "memory", "sight")
        joined = {n: torch.cat([getattr(latent, n) for latent in tagged], axis) for n in names}
        return Belief.of(replace(tagged[0], **joined), torch.cat(logs, axis))

    def member_of(self, latent: Latent) -> Tensor:
        """The member's number [*batch] of each latent."""
        return latent.h[..., 0].round().long()

    def member_weights(self, belief: Belief) -> Tensor:
        """P(member | everything read), [*batch, M]."""
        owner = self.member_of(belief.latents)
        shares = [
            torch.where(owner == m, belief.weights, 0.0).sum(-1) for m in range(len(self.members))
        ]
        return torch.stack(shares, dim=-1)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        def move(member: Observer, rows: Latent, pick: _Pick) -> Latent:
            return member.step(rows, pick(action), None if noise is None else pick(noise))

        return self._latents(latent, move)

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        def read(member: Observer, rows: Latent, pick: _Pick) -> Latent:
            mine = {key: pick(value) for key, value in obs.items()}
            return member.condition(rows, mine, None if noise is None else pick(noise))

        return self._latents(latent, read)

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        def see(member: Observer, rows: Latent, pick: _Pick) -> Mapping[str, Tensor]:
            return member.imagine_obs(rows, None if noise is None else pick(noise))

        return self._split(latent, see)

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        def judge(member: Observer, rows: Latent, pick: _Pick) -> dict[str, Tensor]:
            mine = {key: pick(value) for key, value in obs.items()}
            return {"value": member.log_likelihood(rows, mine)}

        return self._split(latent, judge)["value"]

    def predict_reward(self, latent: Latent) -> Tensor:
        return self._split(latent, lambda m, rows, _: {"value": m.predict_reward(rows)})["value"]

    def predict_safety(self, latent: Latent) -> Tensor:
        return self._split(latent, lambda m, rows, _: {"value": m.predict_safety(rows)})["value"]

    def predict_continue(self, latent: Latent) -> Tensor:
        return self._split(latent, lambda m, rows, _: {"value": m.predict_continue(rows)})["value"]

    def _latents(self, latent: Latent, act: Callable[[Observer, Latent, _Pick], Latent]) -> Latent:
        def columns(member: Observer, rows: Latent, pick: _Pick) -> dict[str, Tensor]:
            new = act(member, rows, pick)
            return {"h": new.h, "z": new.z, "memory": new.memory, "sight": new.sight}

        parts = self._split(latent, columns)
        parts["h"] = torch.cat([latent.h[..., :1], parts["h"]], dim=-1)
        return replace(latent, **parts)

    def _split(
        self,
        latent: Latent,
        work: Callable[[Observer, Latent, _Pick], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """`work` done by each member on its own rows, put back in their places."""
        shape = latent.batch_shape
        owner = self.member_of(latent).reshape(-1)
        flat = latent.flatten()
        out: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            rows = (owner == number).nonzero()[:, 0]
            last = number + 1 == len(self.members)
            if rows.numel() == 0 and (out or not last):  # somebody must say what an answer is like
                continue
            mine = flat[rows]
            mine = replace(mine, h=mine.h[..., 1:])
            for key, value in work(member, mine, _Pick(rows, len(shape))).items():
                if key not in out:
                    # A row of no member (a broken latent) stays NaN, or -1 where answers are ints.
                    empty = torch.nan if value.is_floating_point() else -1
                    out[key] = value.new_full((owner.shape[0], *value.shape[1:]), empty)
                out[key][rows] = value
        return {key: value.reshape(*shape, *value.shape[1:]) for key, value in out.items()}


class _Pick:
    """Takes a member's rows out of a tensor [*batch, ...]."""

    def __init__(self, rows: Tensor, lead: int) -> None:
        self.rows, self.lead = rows, lead

    def __call__(self, values: Tensor) -> Tensor:
        count = math.prod(values.shape[: self.lead])  # given: of nothing wide it cannot be inferred
        return values.reshape(count, *values.shape[self.lead :])[self.rows]


def tag(latent: Latent, member: int) -> Latent:
    """A member's latent as the ensemble's: its number in front of h."""
    number = torch.full_like(latent.h[..., :1], float(member))
    return replace(latent, h=torch.cat([number, latent.h], dim=-1))
