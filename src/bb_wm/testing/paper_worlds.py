"""Small worlds whose beliefs can be solved on paper, as protocols.Observer.

A latent holds the hidden thing in z; h is one dummy number. Nothing here is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bb_wm.types import Latent


def latent_of(z: Tensor) -> Latent:
    """A latent [*batch] around the hidden thing z [*batch, Z]."""
    batch = z.shape[:-1]
    empty = z.new_zeros(*batch, 0)
    return Latent(z.new_zeros(*batch, 1), z, empty[..., None], empty)


class PaperWorld:
    """What all of them share: reward and risk lie in the candidates' worths, nothing ends."""

    action_size = 1

    def predict_reward(self, latent: Latent) -> Tensor:
        return torch.zeros_like(latent.z[..., 0])

    def predict_safety(self, latent: Latent) -> Tensor:
        return torch.zeros_like(latent.z[..., 0])

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.z[..., 0])

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        return latent


@dataclass(frozen=True)
class GaussianWorld(PaperWorld):
    """z ~ N(mean, covariance), o = sees z + N(0, noise^2 I); q is the exact posterior.

    `q_scale` multiplies q's standard deviation (1 is right, .5 over-confident), `q_gain` its
    Kalman gain. Besides the answer "o" it imagines the key `also` = other z, when given.
    """

    mean: Tensor
    covariance: Tensor
    sees: Tensor
    noise: float
    q_scale: float = 1.0
    q_gain: float = 1.0
    also: Tensor | None = None

    @property
    def noise_size(self) -> int:
        return int(self.mean.shape[0])

    @property
    def obs_noise_size(self) -> int:
        return int(self.sees.shape[0])

    def _root(self, covariance: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        root: Tensor = vectors * values.clamp_min(0).sqrt()
        return root

    def prior(self, noise: Tensor) -> Latent:
        """Particles [N] from standard normals [N, Z]."""
        return latent_of(self.mean + noise.double() @ self._root(self.covariance).T)

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        seen = latent.z @ self.sees.T
        seen = seen if noise is None else seen + self.noise * noise
        found = {"o": seen}
        if self.also is not None:
            found["also"] = latent.z @ self.also.T
        return found

    def _gain(self) -> Tensor:
        cross = self.covariance @ self.sees.T
        size = self.noise**2 * torch.eye(self.sees.shape[0], dtype=cross.dtype)
        gain: Tensor = cross @ torch.linalg.inv(self.sees @ cross + size)
        return gain

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        gain = self._gain()
        surprise = obs["o"].double() - self.mean @ self.sees.T
        z = self.mean + self.q_gain * surprise @ gain.T
        if noise is not None:
            left = self.covariance - gain @ self.sees @ self.covariance
            z = z + self.q_scale * noise.double() @ self._root(left).T
        return latent_of(z)

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        error = (obs["o"] - latent.z @ self.sees.T) / self.noise
        each = -0.5 * error.square() - np.log(self.noise * np.sqrt(2 * np.pi))
        total: Tensor = each.sum(-1)
        return total


@dataclass(frozen=True)
class FiniteWorld(PaperWorld):
    """One of S states with prior [S]; a call may move it (moves [S, S']) and answers k of K with
    probability answer[s, k]. z is a one-hot; what q says is the exact posterior."""

    prior: Tensor
    answer: Tensor
    moves: Tensor | None = None

    noise_size = 1
    obs_noise_size = 1

    def states(self) -> Latent:
        """Every state once, [S]: with weights `prior` the whole belief."""
        return latent_of(torch.eye(len(self.prior), dtype=torch.float64))

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        if self.moves is None:
            return latent
        chance = latent.z @ self.moves
        return latent_of(_drawn(chance, noise))

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        return {"o": _drawn(latent.z @ self.answer, noise).argmax(-1, keepdim=True).double()}

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        before = self.prior if self.moves is None else self.prior @ self.moves
        chance = before * self.answer.T[obs["o"][..., 0].long()]
        chance = chance / chance.sum(-1, keepdim=True)
        return latent_of(chance if noise is None else _drawn(chance, noise))

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        table = latent.z @ self.answer
        return table.gather(-1, obs["o"].long())[..., 0].log()

    def answers(self) -> dict[str, Tensor]:
        """Every answer, for Ask.answers."""
        return {"o": torch.arange(self.answer.shape[1], dtype=torch.float64)[:, None]}


@dataclass(frozen=True)
class BetaBinomialWorld(PaperWorld):
    """p ~ Beta(a, b), o ~ Binomial(trials, p)."""

    a: float
    b: float
    trials: int

    noise_size = 1
    obs_noise_size = 1

    def prior(self, noise: Tensor) -> Latent:
        """Particles [N] from standard normals [N, 1], by the inverse of the Beta's distribution."""
        shape = torch.tensor([[self.a, self.b]], dtype=torch.float64).expand(len(noise), 2)
        return latent_of(self._beta(shape, noise))

    def _beta(self, shape: Tensor, noise: Tensor) -> Tensor:
        """Beta quantiles [*batch, 1]; one table per distinct shape [*batch, 2]."""
        grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        kinds, which = torch.unique(shape.reshape(-1, 2), dim=0, return_inverse=True)
        density = (kinds[:, :1] - 1) * grid.log() + (kinds[:, 1:] - 1) * torch.log1p(-grid)
        mass = density.softmax(-1).cumsum(-1)
        level = torch.special.ndtr(noise.double()).reshape(-1, 1)
        index = torch.searchsorted(mass[which], level).clamp_max(3999)
        return grid[index].reshape(*shape.shape[:-1], 1)

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        chance = self._answers(latent.z)
        return {"o": _drawn(chance, noise).argmax(-1, keepdim=True).double()}

    def _answers(self, p: Tensor) -> Tensor:
        k = torch.arange(self.trials + 1, dtype=torch.float64)
        n = torch.tensor(float(self.trials))
        ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        return (ways.double() + k * p.log() + (n - k) * torch.log1p(-p)).softmax(-1)

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        k = obs["o"].double()
        shape = torch.cat([self.a + k, self.b + self.trials - k], -1)
        if noise is None:
            return latent_of(shape[..., :1] / shape.sum(-1, keepdim=True))
        return latent_of(self._beta(shape, noise))

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        return self._answers(latent.z).log().gather(-1, obs["o"].long())[..., 0]

    def answers(self) -> dict[str, Tensor]:
        return {"o": torch.arange(self.trials + 1, dtype=torch.float64)[:, None]}


def _drawn(chance: Tensor, noise: Tensor | None) -> Tensor:
    """A one-hot [*batch, K] drawn from chances by a standard normal; the mode when None."""
    if noise is None:
        index = chance.argmax(-1)
    else:
        level = torch.special.ndtr(noise[..., :1].double())
        index = (chance.cumsum(-1) < level).sum(-1).clamp_max(chance.shape[-1] - 1)
    return torch.nn.functional.one_hot(index, chance.shape[-1]).double()
