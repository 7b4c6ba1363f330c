"""How much arithmetic one update of ours is, by hand, and how much of it the machine could do.

Only matrix products count. A product of [N, I] by [I, O] is 2 N I O operations; learning costs it
once more for the weights and once more for its inputs, where they have a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers_speed import line

if TYPE_CHECKING:
    from benchmarks.peers_speed.line import Shape


@dataclass(frozen=True, slots=True)
class Product:
    """[rows, inputs] by [inputs, outputs], done `passes` times in an update."""

    name: str
    rows: int
    inputs: int
    outputs: int
    passes: int = 3

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs * self.passes


def products(shape: Shape, obs: int = line.OBS, action: int = line.ACTION) -> list[Product]:
    """Of one update with the equal losses: GRU, categorical z, a vector that is its own sight."""
    count, h, z, hidden = shape.batch * shape.rows, shape.size, shape.latent, shape.units
    latent = h + z
    rows = [
        ("sight: hidden", obs, hidden, 2),
        ("sight: output", hidden, hidden, 3),
        ("sight: linear", obs, hidden, 2),
        ("sight to posterior", obs, z, 2),
        ("h to posterior", h, hidden, 3),
        ("posterior", hidden, z, 3),
        ("prior: hidden", h, hidden, 3),
        ("prior: output", hidden, z, 3),
        ("prior: linear", h, z, 3),
        ("core: z", z, h, 3),
        ("core: gates", 2 * h, 3 * h, 3),
        ("trunk: hidden", latent, hidden, 3),
        ("trunk: output", hidden, hidden, 3),
        ("trunk: linear", latent, hidden, 3),
        ("decoder", hidden + latent, obs, 3),
        ("heads", latent, 3 * hidden + 3, 3),
    ]
    found = [Product(name, count, a, b, passes) for name, a, b, passes in rows]
    return [*found, Product("core: action", shape.batch * (shape.rows - 1), action, h, 2)]


def update_flops(shape: Shape) -> int:
    """Operations of all matrix products of one update."""
    return sum(product.flops for product in products(shape))


def dominating(shape: Shape) -> Product:
    """The product with the most work."""
    return max(products(shape), key=lambda product: product.flops)
