"""What the model believes (Latent) and what it imagines (Trajectory)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Latent:
    """s = (h, z), the belief of the model about one row.

    `memory` is what the core remembers beside h: length 0 for a GRU, the attention window for a
    Transformer, so that no caller changes with the core. `sight` is the row's observation in model
    units, on which the shortcut builds; its size is 0 where the row was imagined without decoding.
    """

    h: Float[Tensor, "*batch D"]
    z: Float[Tensor, "*batch Z"]
    memory: Float[Tensor, "*batch L M"]
    sight: Float[Tensor, "*batch S"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.h.shape[:-1])

    def map(self, change: Callable[[Tensor], Tensor]) -> Latent:
        """The same latent with `change` applied to every tensor."""
        return Latent(change(self.h), change(self.z), change(self.memory), change(self.sight))

    def __getitem__(self, index: object) -> Latent:
        """Index the batch axes; `index` must leave the feature axes alone."""
        return self.map(lambda t: t[index])  # type: ignore[index]

    def detach(self) -> Latent:
        return self.map(lambda t: t.detach())

    def expand(self, *extra: int) -> Latent:
        """Repeat over new axes put after the batch axes: [*batch] -> [*batch, *extra]."""
        lead = len(self.batch_shape)

        def grow(t: Tensor) -> Tensor:
            shape = (*t.shape[:lead], *([1] * len(extra)), *t.shape[lead:])
            return t.reshape(shape).expand(*t.shape[:lead], *extra, *t.shape[lead:])

        return self.map(grow)

    def flatten(self) -> Latent:
        """All batch axes folded into one: [*batch] -> [B]."""
        lead = len(self.batch_shape)
        count = 1
        for size in self.batch_shape:
            count *= size
        return self.map(lambda t: t.reshape(count, *t.shape[lead:]))

    def unflatten(self, batch_shape: tuple[int, ...]) -> Latent:
        """The inverse of `flatten`."""
        return self.map(lambda t: t.reshape(*batch_shape, *t.shape[1:]))


def stack_latents(latents: list[Latent]) -> Latent:
    """[*batch] K times -> one latent [*batch, K]."""
    import torch

    lead = len(latents[0].batch_shape)
    columns = {
        field.name: torch.stack([getattr(latent, field.name) for latent in latents], dim=lead)
        for field in fields(Latent)
    }
    return Latent(**columns)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """K imagined rows from `start` on, on batch axes [*batch].

    `action[k]` leads to `latents[k]`, where `reward[k]` and `safety[k]` (risk, larger is worse) are
    received: one row of imagination is one row of data later. `discount[k]` is the probability that
    row k is reached at all, the product of the continuations before it; utilities multiply it by a
    gamma of their own. `continuation[k]` is the probability that row k is not terminal. `trusted`
    says how many of the rows may be believed, where something was asked that can tell
    (`TrustedHorizon.mark`).
    """

    start: Latent
    latents: Latent
    action: Float[Tensor, "*batch K A"]
    reward: Float[Tensor, "*batch K"]
    safety: Float[Tensor, "*batch K"]
    continuation: Float[Tensor, "*batch K"]
    discount: Float[Tensor, "*batch K"]
    trusted: Int[Tensor, "*batch"] | None = None

    @property
    def horizon(self) -> int:
        return int(self.reward.shape[-1])

    def prefix(self, horizon: int) -> Trajectory:
        """The first `horizon` rows."""
        lead = len(self.start.batch_shape)
        cut = (slice(None),) * lead + (slice(0, horizon),)
        return replace(
            self,
            latents=self.latents[cut],
            action=self.action[cut],
            reward=self.reward[cut],
            safety=self.safety[cut],
            continuation=self.continuation[cut],
            discount=self.discount[cut],
            trusted=None if self.trusted is None else self.trusted.clamp_max(horizon),
        )
