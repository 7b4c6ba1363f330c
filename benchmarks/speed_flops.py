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

    From `LOOKED_UP` rows on, what is read of z is looked up, and its weights' gradient gathered;
    the gradient of z itself stays a product.
    """
    count, h, z, hidden = shape.batch * shape.rows, shape.size, shape.latent, shape.units
    by_z, by_row = (1 if rows >= LOOKED_UP else 3 for rows in (count, shape.batch))
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
        ("core: z", z, h, by_row),
        ("core: gates", 2 * h, 3 * h, 3),
        ("trunk, heads, decoder: h", h, hidden + heads + obs, 3),
        ("trunk, heads, decoder: z", z, hidden + heads + obs, by_z),
        ("trunk: output", hidden, hidden, 3),
        ("decoder: trunk", hidden, obs, 3),
    ]
    found = [Product(name, count, a, b, passes) for name, a, b, passes in rows]
    if by_row < 3:  # an empty belief's z is no one-hots
        found.append(Product("core: z before the first row", shape.batch, z, h, 3 - by_row))
    return [*found, Product("core: action", shape.batch * (shape.rows - 1), action, h, 2)]


def update_flops(shape: Shape) -> int:
    """Operations of all matrix products of one update."""
    return sum(product.flops for product in products(shape))


def imagined_flops(shape: Shape, task: str) -> int:
    """Operations of all products of rows imagined, whose z is looked up; for "imagine" with the
    policy's."""
    h, z, hidden = shape.size, shape.latent, shape.units
    count = {"imagine": line.STARTS * line.ROWS, "decide": line.CANDIDATES * line.AHEAD}[task]
    step = line.ACTION * h + 6 * h * h + h * hidden + hidden * z  # core, prior
    heads = h * (3 * hidden + 3)
    policy = h * hidden + hidden * hidden + hidden * line.ACTION
    return 2 * count * (step + heads + (policy if task == "imagine" else 0))


def dominating(shape: Shape) -> Product:
    """The product with the most work at once."""
    return max(products(shape), key=lambda product: product.flops / product.passes)
