"""sheeprl's DreamerV3 world model as a worker: `... sheeprl_worker {step,eager}`.

Its own agent, loss and optimiser by its own configuration; with `step` one step of the recurrence
is compiled (its switch compiles the whole unrolled loss, which takes minutes).
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import gymnasium
import hydra
import numpy as np
import torch
from lightning.fabric import Fabric
from sheeprl.algos.dreamer_v3.agent import build_agent
from sheeprl.algos.dreamer_v3.dreamer_v3 import world_model_loss, world_model_loss_kwargs
from sheeprl.utils.distribution import TwoHotEncodingDistribution
from sheeprl.utils.utils import dotdict

from benchmarks.peers_speed import line
from benchmarks.peers_speed.line import Shape


def config(shape: Shape) -> Any:
    """Its `exp=dreamer_v3` with the sizes of the shape."""
    from omegaconf import OmegaConf

    model = "algo.world_model"
    changes = [
        "exp=dreamer_v3",
        "env=dummy",
        "algo.cnn_keys.encoder=[]",
        "algo.cnn_keys.decoder=[]",
        "algo.mlp_keys.encoder=[obs]",
        "algo.mlp_keys.decoder=[obs]",
        f"algo.per_rank_batch_size={shape.batch}",
        f"algo.per_rank_sequence_length={shape.rows}",
        f"algo.dense_units={shape.units}",
        "algo.mlp_layers=2",
        f"{model}.stochastic_size={shape.groups}",
        f"{model}.discrete_size={shape.classes}",
        f"{model}.recurrent_model.recurrent_state_size={shape.size}",
        f"{model}.transition_model.hidden_size={shape.units}",
        f"{model}.representation_model.hidden_size={shape.units}",
    ]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        return dotdict(OmegaConf.to_container(hydra.compose("config", changes), resolve=True))


class SheepRL:
    """A model of a shape and its tasks."""

    def __init__(self, shape: Shape, compiled: bool) -> None:
        torch.manual_seed(0)
        settings = config(shape)
        fabric = Fabric(accelerator="cpu", devices=1)
        spaces = gymnasium.spaces.Dict(
            {"obs": gymnasium.spaces.Box(-np.inf, np.inf, (line.OBS,), np.float32)}
        )
        self.world, *_ = build_agent(fabric, (line.ACTION,), True, settings, spaces)
        self.rssm = self.world.rssm
        self.shape, self.settings = shape, world_model_loss_kwargs(settings)
        self.learnt = [p for p in self.world.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in self.learnt)
        options = settings.algo.world_model.optimizer
        self.optimiser = hydra.utils.instantiate(options, params=self.learnt, _convert_="all")
        self.clip = settings.algo.world_model.clip_gradients
        rows = {k: torch.from_numpy(v).transpose(0, 1) for k, v in line.rows(shape).items()}
        self.batch = {
            "obs": rows["obs"].contiguous(),
            "actions": rows["action"].contiguous(),
            "rewards": rows["reward"].unsqueeze(-1).contiguous(),
            "terminated": rows["terminated"].unsqueeze(-1).float().contiguous(),
            "is_first": rows["is_first"].unsqueeze(-1).float().contiguous(),
        }
        sizes = (shape.latent + shape.size, shape.units, shape.units, line.ACTION)
        self.layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        flat = rows["obs"].transpose(0, 1).flatten(0, 1)
        self.one = flat[:1]
        with torch.no_grad():
            self.start = self._encode(flat[torch.arange(line.STARTS) % len(flat)])
        self.advance = self.rssm.imagination
        if compiled:
            self.advance = torch.compile(self.rssm.imagination, dynamic=False)
            self.rssm.dynamic = torch.compile(self.rssm.dynamic, dynamic=False)

    def _encode(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = (1, len(obs))
        h, z = self.rssm.get_initial_states(size)
        action = obs.new_zeros(*size, line.ACTION)
        h = self.rssm.recurrent_model(torch.cat([z.flatten(-2), action], -1), h)
        seen = self.world.encoder({"obs": obs[None]})
        return self.rssm._representation(h, seen)[1].flatten(-2), h

    def _outcomes(self, read: list[torch.Tensor]) -> torch.Tensor:
        """Rewards times the probability that each row is reached, [K, N]."""
        rows = torch.cat(read)
        reward = TwoHotEncodingDistribution(self.world.reward_model(rows), dims=1).mean[..., 0]
        going = torch.sigmoid(self.world.continue_model(rows)[..., 0])
        reached = torch.cat([torch.ones_like(going[:1]), going[:-1].cumprod(0)])
        return reward * reached

    def update(self) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss, *_ = world_model_loss(self.world, self.batch, **self.settings, entropies=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, self.clip)
        self.optimiser.step()
        return float(loss.detach())

    def _policy(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.nn.functional.silu(layer(x))
        return torch.tanh(self.layers[-1](x))

    @torch.no_grad()
    def imagine(self) -> torch.Tensor:
        z, h = self.start
        read = []
        for _ in range(line.ROWS):
            z, h = self.advance(z, h, self._policy(torch.cat([z, h], -1)))
            z = z.flatten(-2)
            read.append(torch.cat([z, h], -1))
        return self._outcomes(read)

    @torch.no_grad()
    def decide(self) -> int:
        z, h = (x.expand(1, line.CANDIDATES, -1) for x in self._encode(self.one))
        read = []
        for action in torch.rand(line.AHEAD, 1, line.CANDIDATES, line.ACTION) * 2 - 1:
            z, h = self.advance(z, h, action)
            z = z.flatten(-2)
            read.append(torch.cat([z, h], -1))
        return int(self._outcomes(read).sum(0).argmax())


if __name__ == "__main__":
    line.serve(lambda shape: SheepRL(shape, sys.argv[1] == "step"))
