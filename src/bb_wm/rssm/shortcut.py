"""The shortcut as dynamics: z is skipped, sights are predicted directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.network import Network
    from bb_wm.rssm.world_model import WorldModel
    from bb_wm.types import Latent


class ShortcutDynamics:
    """The direct path as `protocols.Dynamics`; deterministic, for latents that carry a sight.

    Rewards, risks and continuations are the model's, as it predicts them of any latent.
    """

    def __init__(self, network: Network, model: WorldModel) -> None:
        self._network, self._model = network, model

    @property
    def noise_size(self) -> int:
        return 0

    @property
    def action_size(self) -> int:
        return self._network.action_size

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        """The next latent by the direct path."""
        return self._network.rssm.shortcut_step(latent, action)[0]

    def predict_reward(self, latent: Latent) -> Tensor:
        return self._model.predict_reward(latent)

    def predict_safety(self, latent: Latent) -> Tensor:
        return self._model.predict_safety(latent)

    def predict_outcomes(self, latent: Latent) -> tuple[Tensor, Tensor, Tensor]:
        return self._model.predict_outcomes(latent)

    def predict_continue(self, latent: Latent) -> Tensor:
        return self._model.predict_continue(latent)
