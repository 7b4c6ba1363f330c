"""A reactor whose controller runs it too warm, and a gate that keeps it from running away.

    python -m examples.gate_a_plant OUT                             everything; some minutes
    python -m examples.gate_a_plant OUT --rows 3000 --updates 100 --episodes 3    a quick look
    python -m examples.gate_a_plant OUT --episodes 50               what OUT holds is used again

pcgym's stirred tank, CSTR. A PI controller holds a concentration by the coolant's temperature; it
is tuned too hot, so that on its way to a low concentration it ignites the reaction now and then.
The life cycle is that of gate_a_robot.py: record, train, then the same seeds without a gate and
through one, where what is not allowed is replaced by cool coolant. What is printed:
consequences avoided, and what that cost. Needs: pip install "bb_wm[factory]"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from examples.gate_a_robot import Act, live, parse, table

COOL = [-0.5]  # 295 K


@dataclass(frozen=True, slots=True)
class Controller:
    """A policy: PI control of the concentration, tuned too hot for concentrations near the edge."""

    gain: float = 10.0
    integral: float = 1.0

    def begin(self, generator: np.random.Generator) -> Act:
        """obs -> coolant [1] of one episode."""
        held = 0.0

        def act(obs: Any) -> np.ndarray:
            nonlocal held
            error = float(obs[0] - obs[3])  # too much of A: warmer
            held = float(np.clip(held + self.integral * error, -1.0, 1.0))
            return np.clip([self.gain * error + held], -1.0, 1.0).astype(np.float32)

        return act


def cli() -> None:
    """The example."""
    given = parse(__doc__)
    columns, _ = live(
        given.out.resolve(),
        "CSTR",
        Controller(),
        COOL,
        limit=0.1,
        length=100,
        rows=given.rows,
        updates=given.updates,
        calibrating=given.calibrating,
        episodes=given.episodes,
    )
    print(table(columns))


if __name__ == "__main__":
    cli()
