"""A perceptron over latents, for what a user learns in imagination."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

from bb_wm.model import native
from bb_wm.model.lookup import LatentLinear, affine_of_latent, product_of_latent
from bb_wm.model.nets import MLP
from bb_wm.model.stochastic import check_int

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm.world_model import WorldModel
    from bb_wm.types import Latent


class LatentNet(nn.Module):
    """Latents [*batch] of a model -> [*batch, outputs]: a policy's or a value's trainable net.

        net = LatentNet(model, outputs=2)
        model.rollout(latent, lambda latent: torch.tanh(net(latent)), horizon=15)

    It has `layers` SiLU layers of `hidden` and reads (h, z) as the model's own nets do: one-hots
    are looked up, wide products narrowed where `torch.set_float32_matmul_precision` allows it. A
    plain perceptron over h and z side by side computes the same, slower where z is one-hots. Its
    gradients are autograd's. Raises ConfigError for a size that is no int of at least 1.
    """

    def __init__(
        self, model: WorldModel, outputs: int, *, hidden: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        for name, size in (("outputs", outputs), ("hidden", hidden), ("layers", layers)):
            check_int(name, size, low=1, high=1 << 20)
        config = model.config
        self.net = MLP(
            config.core.size + config.latent.size,
            outputs,
            hidden=hidden,
            layers=layers,
            bypass=False,
            hots=config.latent.hots,
        ).to(model.device)

    def forward(self, latent: Latent) -> Tensor:
        entry = cast("LatentLinear", self.net.hidden[0])
        if native.ready(latent.h, *self.net.widths):
            told = product_of_latent(latent.h, latent.z, entry.weight, entry.hots)
            return self.net.leave_product(told, None).view(*latent.batch_shape, -1)
        inner = affine_of_latent(latent.h, latent.z, entry.weight, entry.bias, entry.hots)
        return self.net.leave(inner, None)
