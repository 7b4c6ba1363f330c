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


LOOKED_UP = 64  # rows


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
    """Of one update with the equal losses: GRU, categorical z, a vector that is its own sight.

    From `LOOKED_UP` rows on, what decoder and heads read of z is looked up, and its weights'
    gradient gathered; the gradient of z itself stays a product.
    """
    count, h, z, hidden = shape.batch * shape.rows, shape.size, shape.latent, shape.units
    by_z = 1 if count >= LOOKED_UP else 3
    heads = 2 * hidden + 2  # reward and continuation; risk has weight 0
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
        ("trunk and heads: h", h, 2 * hidden + heads, 3),
        ("trunk and heads: z", z, 2 * hidden + heads, by_z),
        ("trunk: output", hidden, hidden, 3),
        ("decoder", hidden + h + z, obs, 3),
    ]
    found = [Product(name, count, a, b, passes) for name, a, b, passes in rows]
    return [*found, Product("core: action", shape.batch * (shape.rows - 1), action, h, 2)]


def update_flops(shape: Shape) -> int:
    """Operations of all matrix products of one update."""
    return sum(product.flops for product in products(shape))


def imagined_flops(shape: Shape, task: str) -> dict[str, int]:
    """Operations of all products of rows imagined: the model's, which may be narrowed, and of
    "imagine" those of the policy, which is the user's own and is not."""
    h, z, hidden = shape.size, shape.latent, shape.units
    count = {"imagine": line.STARTS * line.ROWS, "decide": line.CANDIDATES * line.AHEAD}[task]
    step = line.ACTION * h + 6 * h * h + h * (hidden + z) + hidden * z  # core, prior
    heads = h * (3 * hidden + 3)
    policy = (h + z) * hidden + hidden * hidden + hidden * line.ACTION
    found = {"model": 2 * count * (step + heads)}
    return found | ({"policy": 2 * count * policy} if task == "imagine" else {})


def dominating(shape: Shape) -> Product:
    """The product with the most work at once."""
    return max(products(shape), key=lambda product: product.flops / product.passes)
