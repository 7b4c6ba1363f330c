"""torchrl's DreamerV3 world model as a worker: `... torchrl_worker {step,eager}`.

Its prior and posterior with the GRU core, its rollout (one step compiled with `step`), its
perceptrons and its loss; torch.optim.Adam with clipping by global norm.
"""

from __future__ import annotations

import sys

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import DreamerV3MLP, RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3, SymExpTwoHot
from torchrl.objectives import DreamerV3ModelLoss

from benchmarks.peers_speed import line
from benchmarks.peers_speed.line import Shape

BINS = 255


class TorchRL:
    """A model of a shape and its tasks; `compiled` compiles one step of the recurrence."""

    def __init__(self, shape: Shape, compiled: bool) -> None:
        torch.manual_seed(0)
        z, width = shape.latent, shape.latent + shape.size
        mlp = {"depth": 2, "num_cells": shape.units}
        kinds = {"num_categoricals": shape.groups, "num_classes": shape.classes, "unimix": 0.01}
        sizes = {"hidden_dim": shape.units, "rnn_hidden_dim": shape.size, **kinds}
        self.shape = shape
        self.encoder = DreamerV3MLP(line.OBS, None, **mlp)
        self.prior = RSSMPriorV3(action_shape=(line.ACTION,), action_dim=line.ACTION, **sizes)
        self.posterior = RSSMPosteriorV3(obs_embed_dim=shape.units, **sizes)
        self.decoder = DreamerV3MLP(width, line.OBS, **mlp)
        self.reward = DreamerV3MLP(width, BINS, **mlp, outscale=0.0)
        self.going = DreamerV3MLP(width, 1, **mlp)
        self.policy = nn.Sequential(
            nn.Linear(width, shape.units),
            nn.SiLU(),
            nn.Linear(shape.units, shape.units),
            nn.SiLU(),
            nn.Linear(shape.units, line.ACTION),
            nn.Tanh(),
        )
        self.two_hot = SymExpTwoHot(BINS)
        rollout = RSSMRolloutV3(*self._wired())
        if compiled:
            rollout.compile_rollout("step")
        self.advance = torch.compile(self._advance, dynamic=False) if compiled else self._advance
        read, told = [("next", "state"), ("next", "belief")], TensorDictModule
        world = TensorDictSequential(
            told(self.encoder, [("next", "obs")], [("next", "encoded_latents")]),
            rollout,
            told(self.decoder, read, [("next", "reco")]),
            told(self.reward, read, [("next", "reward_logits")]),
            told(self.going, read, [("next", "going")]),
        )
        self.loss = DreamerV3ModelLoss(
            world, lambda_continue=1.0, kl_mode="separate", unimix=0.01, num_reward_bins=BINS
        )
        self.loss.set_keys(pixels="obs", reco_pixels="reco", continue_pred="going")
        self.learnt = list(world.parameters())
        self.parameters = sum(p.numel() for p in self.learnt)
        self.optimiser = torch.optim.Adam(self.learnt, lr=1e-4, fused=True)
        rows = {k: torch.from_numpy(v) for k, v in line.rows(shape).items()}
        size = [shape.batch, shape.rows]
        self.batch = TensorDict(
            {
                "state": torch.zeros(*size, z),
                "belief": torch.zeros(*size, shape.size),
                "action": rows["action"],
                "is_init": rows["is_first"].unsqueeze(-1),
                "next": {
                    "obs": rows["obs"],
                    "reward": rows["reward"].unsqueeze(-1),
                    "terminated": rows["terminated"].unsqueeze(-1),
                },
            },
            size,
        )
        flat = rows["obs"].flatten(0, 1)
        self.one = flat[:1]
        with torch.no_grad():
            seen = flat[torch.arange(line.STARTS) % len(flat)]
            self.start = self._encode(seen)

    def _wired(self) -> tuple[TensorDictModule, TensorDictModule]:
        prior = TensorDictModule(
            self.prior,
            ["state", "belief", "action"],
            [("next", "prior_logits"), ("next", "state"), ("next", "belief")],
        )
        posterior = TensorDictModule(
            self.posterior,
            [("next", "belief"), ("next", "encoded_latents")],
            [("next", "posterior_logits"), ("next", "state")],
        )
        return prior, posterior

    def _encode(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(obs)
        belief = self.prior._update_belief(
            obs.new_zeros(count, self.shape.latent),
            obs.new_zeros(count, self.shape.size),
            obs.new_zeros(count, line.ACTION),
        )
        return self.posterior(belief, self.encoder(obs))[1], belief

    def _advance(
        self, state: torch.Tensor, belief: torch.Tensor, action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.prior(state, belief, action)[1:]

    def _outcomes(self, states: list[torch.Tensor], beliefs: list[torch.Tensor]) -> torch.Tensor:
        """Rewards times the probability that each row is reached, [N, K]."""
        read = torch.cat([torch.stack(states, 1), torch.stack(beliefs, 1)], -1)
        reward = self.two_hot.decode(self.reward(read))
        going = torch.sigmoid(self.going(read).squeeze(-1))
        reached = torch.cat([torch.ones_like(going[:, :1]), going[:, :-1].cumprod(1)], 1)
        return reward * reached

    def update(self) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        terms, _ = self.loss(self.batch.clone(recurse=False))
        total = sum(v.sum() for k, v in terms.items() if k.startswith("loss_"))
        total.backward()
        nn.utils.clip_grad_norm_(self.learnt, 1000.0)
        self.optimiser.step()
        return float(total.detach())

    @torch.no_grad()
    def imagine(self) -> torch.Tensor:
        state, belief = self.start
        states, beliefs = [], []
        for _ in range(line.ROWS):
            action = self.policy(torch.cat([state, belief], -1))
            state, belief = self.advance(state, belief, action)
            states.append(state)
            beliefs.append(belief)
        return self._outcomes(states, beliefs)

    @torch.no_grad()
    def decide(self) -> int:
        state, belief = (x.expand(line.CANDIDATES, -1) for x in self._encode(self.one))
        actions = torch.rand(line.AHEAD, line.CANDIDATES, line.ACTION) * 2 - 1
        states, beliefs = [], []
        for action in actions:
            state, belief = self.advance(state, belief, action)
            states.append(state)
            beliefs.append(belief)
        return int(self._outcomes(states, beliefs).sum(1).argmax())


if __name__ == "__main__":
    line.serve(lambda shape: TorchRL(shape, sys.argv[1] == "step"))
