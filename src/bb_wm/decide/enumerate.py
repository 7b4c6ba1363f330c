"""Enumeration: every action sequence of a small discrete problem, so that nothing is missed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.planner import Planner, at_least
from bb_wm.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan, Pool
    from bb_wm.decide.problem import Layout, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Enumerate(Planner):
    """All action sequences of choices; exact for a deterministic model (and a belief's average).

    most     sequences tried before it refuses with ResourceError
    at_once  sequences imagined in one tensor
    """

    horizon: int = 4
    most: int = 100_000
    at_once: int = 4096

    def _check(self) -> None:
        Planner._check(self)
        at_least(self, "most", 1)
        at_least(self, "at_once", 1)

    @property
    def search_shape(self) -> tuple[int, int]:
        return 1, 0

    def search(self, problem: Problem, noise: Tensor, previous: Plan | None) -> tuple[Pool, Tensor]:
        singles = all_actions(problem.layout)
        count = len(singles) ** self.horizon
        if count > self.most:
            raise ResourceError(
                "Enumerate.horizon",
                expected=f"at most {self.most} sequences",
                actual=f"{len(singles)}^{self.horizon} = {count}",
                hint="use a shorter horizon, RandomShooting or CEM.",
            )
        found: Pool | None = None
        for first in range(0, count, self.at_once):
            numbers = torch.arange(first, min(first + self.at_once, count), device=singles.device)
            powers = len(singles) ** torch.arange(self.horizon - 1, -1, -1, device=singles.device)
            digits = numbers[:, None] // powers % len(singles)
            scores = singles[digits].expand(problem.starts, -1, -1, -1)
            found = problem.pool(scores).join(found).best(self.keep)
        assert found is not None
        return found, found.scores[:, 0]


def all_actions(layout: Layout) -> Tensor:
    """Every flat action [n, A] of a space of choices. Raises ConfigError where a part is a box."""
    for part in layout.spec.parts:
        if part.kind != "discrete":
            raise ConfigError(
                "action_spec",
                expected="choices only",
                actual=f"a continuous part {part.key!r}",
                hint="use RandomShooting, CEM or MPPI.",
            )
    sizes = [part.size for part in layout.spec.parts]
    rows = list(itertools.product(*(range(size) for size in sizes)))
    table = torch.zeros(math.prod(sizes), sum(sizes)).to(layout.low)
    for row, classes in enumerate(rows):
        place = 0
        for size, chosen in zip(sizes, classes, strict=True):
            table[row, place + chosen] = 1.0
            place += size
    return table
