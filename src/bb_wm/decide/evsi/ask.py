"""What can be asked, and of what the worth of asking is made.

    V_no       = max_a E_{s~b} U(s, a)                     act now, on the belief b
    V_blind    = max_a E_{s'~p(.|b, do ask)} U(s', a)      ask, do not read the answer
    V_read     = E_o max_a E[U(s', a) | o]                 ask, read the answer o, then choose
    EVSI       = (V_read - V_blind) + (V_blind - V_no) - cost      = info + effect - cost

The problem is given in two parts. An `Ask` says what is done and what is seen: an action with its
own step, or keys of the observation revealed in the same row. The candidates say what is chosen
between afterwards, with the same deadline in every branch:

- actions [C, H, A], flat, one row per candidate and step;
- a sequence of policies, each a callable Latent -> action [*batch, A];
- a function U(latents [N]) -> utilities [N, C], or (utilities, V_s), for problems that are solved
  otherwise, or on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Union

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import Latent

Worths = Callable[["Latent"], "Tensor | tuple[Tensor, Tensor]"]
Policy = Callable[["Latent"], "Tensor"]
Candidates = Union["Tensor", Sequence[Policy], Worths]


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """An action taken for what it reveals, or keys that can be uncovered at a price.

    action   flat action [A] of the call; it takes a step and may change the world. None reveals
             keys of the present row and changes nothing (effect = 0).
    keys     observation keys the answer consists of; None for all that the model imagines
    seen     values of keys already seen in this row: the encoder is given them with the answer
    answers  every possible answer, key -> [K, *shape]: they are summed over exactly, by the model's
             log_likelihood. None: answers are drawn and re-encoded.
    cost     price of one call, in units of utility
    cost_in_reward  the model's reward already contains the price: it is taken out once, and
             reported as cost, so that it cannot be counted twice
    calls    how many equal calls are made before choosing (batch EVSI); each has its price.
             One call can be worth nothing and two a lot.
    """

    name: str
    action: Tensor | None = None
    keys: tuple[str, ...] | None = None
    seen: Mapping[str, Tensor] | None = None
    answers: Mapping[str, Tensor] | None = None
    cost: float = 0.0
    cost_in_reward: bool = False
    calls: int = 1

    def __post_init__(self) -> None:
        if not math.isfinite(self.cost):
            raise ConfigError("Ask.cost", expected="a finite number", actual=self.cost)
        if not 1 <= self.calls <= 4:
            raise ConfigError("Ask.calls", expected="1..4", actual=self.calls)

    @property
    def price(self) -> float:
        """What all calls cost together."""
        return self.cost * self.calls

    def times(self, calls: int) -> Ask:
        """The same ask made `calls` times before choosing."""
        return replace(self, calls=calls, name=f"{self.name} x{calls}" if calls > 1 else self.name)
