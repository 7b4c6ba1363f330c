"""bb_wm itself, as a worker: `python -m benchmarks.peers_speed.ours {equal,fastest,default}`.

`equal` has the losses the peers have (reconstruction, KL, reward, continuation) and plans along the
mode; `fastest` is the same as `bb-wm train --precision medium --native` runs it; `default` is the
library as it comes, with risk, open loop and shortcut losses, and plans that are judged on 8
samples each.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from bb_wm.cli.process import prepare_process
from bb_wm.config import GRU, Categorical, Objective, WorldModelConfig
from bb_wm.decide import RandomShooting
from bb_wm.decide.evsi import EVSI, Ask
from bb_wm.model.native import use_native
from bb_wm.model.products import operand
from bb_wm.rssm import LatentNet, WorldModel
from bb_wm.types import Latent
from benchmarks.peers_speed import line
from benchmarks.peers_speed.line import Shape
from benchmarks.speed_flops import dominating

EQUAL = Objective(rollout=0.0, shortcut=0.0, safety=0.0)


def config(shape: Shape, objective: Objective) -> WorldModelConfig:
    return WorldModelConfig(
        core=GRU(shape.size),
        latent=Categorical(shape.groups, shape.classes),
        objective=objective,
        hidden=shape.units,
        head_hidden=shape.units,
        budget=None,
    )


class Ours:
    """A model of a shape and the four tasks."""

    def __init__(self, shape: Shape, variant: str = "equal") -> None:
        if variant == "fastest":
            prepare_process()
            torch.set_float32_matmul_precision("medium")
            use_native()
        objective = Objective() if variant == "default" else EQUAL
        model = self.model = WorldModel(line.OBS, line.ACTION, config(shape, objective))
        self.parameters = sum(t.numel() for k, t in model.state_tensors().items() if _own(k))
        rows = line.rows(shape)
        self.rows = rows | {"safety": np.abs(rows["reward"])}
        flat = rows["obs"].reshape(-1, line.OBS)
        self.one = flat[0]
        self.starts = model.encode(np.resize(flat, (line.STARTS, line.OBS)))
        self.belief = model.encode(np.resize(flat, (line.ANSWERS, line.OBS)))
        generator = torch.Generator().manual_seed(0)
        size = (line.OPTIONS, line.AHEAD, line.ACTION)
        self.options = torch.rand(size, generator=generator) * 2 - 1
        self.chance = generator
        self.actor = LatentNet(model, line.ACTION, hidden=shape.units, layers=2)
        samples = {} if variant == "default" else {"samples": 0}
        self.planner = RandomShooting(horizon=line.AHEAD, candidates=line.CANDIDATES, **samples)
        self.evsi_of = EVSI(particles=line.ANSWERS, answers=1, horizon=line.AHEAD, tower=False)

        product = dominating(shape)
        self.left = torch.rand(product.rows, product.inputs)
        self.right = torch.rand(product.outputs, product.inputs)
        self.narrow: tuple[torch.Tensor, torch.Tensor] | None = None

    def policy(self, latent: Latent) -> torch.Tensor:
        return torch.tanh(self.actor(latent))

    def update(self) -> object:
        return self.model.update(self.rows)

    def imagine(self) -> object:
        with torch.no_grad():
            return self.model.rollout(
                self.starts, self.policy, line.ROWS, mode="sample", generator=self.chance
            )

    def decide(self) -> object:
        return self.planner.plan(self.model, self.model.encode(self.one))

    def evsi(self) -> object:
        return self.evsi_of(self.model, self.belief, Ask("look"), self.options, 0.01)

    def gemm(self) -> object:
        """The product that dominates the update, alone, in float32: the roofline."""
        return self.left @ self.right.t()

    def gemm_medium(self) -> object:
        """The same with operands as the fastest settings narrow them on this processor."""
        if self.narrow is None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("medium")
            weight = operand(self.right)
            torch.set_float32_matmul_precision(before)
            self.narrow = self.left.to(weight.dtype), weight.t()
        return self.narrow[0] @ self.narrow[1]


def _own(name: str) -> bool:
    return name.startswith("parameter/")


if __name__ == "__main__":
    line.serve(lambda shape: Ours(shape, sys.argv[1]))
