"""What deciding needs to know of a model, and nothing more.

Anything that answers these protocols can be planned with, asked about and gated: our WorldModel, a
simulator, a table, somebody else's network. Latents carry whatever such a model needs in h and z.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bb_wm.types import Latent


@runtime_checkable
class Dynamics(Protocol):
    """A latent simulator. All methods are batched over any leading axes and draw nothing
    themselves: randomness comes in as standard normal noise, so two candidates can share it."""

    @property
    def noise_size(self) -> int:
        """N, how many standard normals one step consumes."""
        ...

    @property
    def action_size(self) -> int:
        """A, the length of a flat action."""
        ...

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        """The next latent under action [*batch, A]; the mode when noise [*batch, N] is None."""
        ...

    def predict_reward(self, latent: Latent) -> Tensor:
        """r(s) [*batch], received on arriving in the latent's row, in the data's units."""
        ...

    def predict_safety(self, latent: Latent) -> Tensor:
        """V_s(s) >= 0 [*batch], the risk of the row; larger is worse."""
        ...

    def predict_continue(self, latent: Latent) -> Tensor:
        """Probability [*batch] that the row is not terminal."""
        ...


@runtime_checkable
class Observer(Dynamics, Protocol):
    """A simulator whose answers can be imagined and read.

    It may also offer `posterior_statistics(latent, obs)` [*batch, F], numbers that say what reading
    obs makes of the belief, and `posterior_moments(latent, obs)`, the mean and deviation [*batch,
    Z] of z after it, so that EVSI needs one pass where it would sample `condition`; and
    `next_log_likelihood(latent, action, obs)` [*batch], log p(obs' | latent, action) of the next
    row, where it predicts that better than by `log_likelihood` in a latent that `step` drew.
    """

    @property
    def obs_noise_size(self) -> int:
        """M, how many standard normals one imagined observation consumes."""
        ...

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> Mapping[str, Tensor]:
        """o ~ p(o | s) per key; the mean or mode when noise [*batch, M] is None."""
        ...

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        """The belief after reading obs in the latent's own row (h stays, z ~ q(z | h, obs))."""
        ...

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        """log p(obs | s) [*batch], to reweight particles by a real answer."""
        ...


def draw_noise(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise; with `generator` the only place where chance enters imagination."""
    import torch

    # Drawn where the generator is: one on the CPU gives a GPU the same numbers.
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
