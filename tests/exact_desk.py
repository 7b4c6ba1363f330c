"""ToolDesk itself as a model: what a learned one should become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bb_wm.types import Latent
from bb_wm.worlds import tooldesk


class ExactDesk:
    """ToolDesk itself as a model. h: log weights of intents, stake, last action; z: answer.

    What was answered is in z until the next step folds it into h.
    """

    noise_size = obs_noise_size = 1
    action_size = 8

    def __init__(self) -> None:
        self.log_answer = torch.full((3, 22, 4), -torch.inf)  # tool, answer, intent
        for tool in range(2):
            silence = float(tooldesk.SILENCE[tool])
            self.log_answer[tool, 1] = np.log(silence)
            for named in range(4):
                likely = (1 - silence) * tooldesk.likelihood(tool, named)
                self.log_answer[tool, 2 + named] = torch.from_numpy(np.log(likely))
        self.log_answer[2, 6:] = -np.log(16.0)

    def filter(self, batch: Mapping[str, Any]) -> Latent:
        obs = {key: torch.from_numpy(np.asarray(value)) for key, value in batch["obs"].items()}
        clarity = torch.tensor(tooldesk.CLARITY)[obs["clarity"][:, 0, 0]]
        weights = ((1 - clarity) / 3)[:, None].repeat(1, 4)
        weights[torch.arange(len(clarity)), obs["cue"][:, 0, 0]] = clarity
        stake = torch.tensor(tooldesk.LEVELS)[obs["stake"][:, 0, 0]]
        h = torch.cat([weights.log(), stake[:, None], torch.full((len(clarity), 1), -1.0)], -1)
        latent = self._latent(h, torch.zeros(len(clarity), 1))
        rows = [latent]
        for t in range(1, obs["answer"].shape[1]):
            action = torch.from_numpy(batch["action"][:, t - 1])
            latent = self.condition(self.step(latent, action), {"answer": obs["answer"][:, t]})
            rows.append(latent)
        return self._latent(*(torch.stack([getattr(r, n) for r in rows], 1) for n in "hz"))

    def encode(
        self,
        obs: Mapping[str, Any],
        previous: Latent | None = None,
        action: Any = None,
        *,
        noise: Tensor | None = None,
    ) -> Latent:
        """One row after another, as WorldModel.encode."""
        told = {key: torch.as_tensor(np.asarray(value)) for key, value in obs.items()}
        shape = told["cue"].shape if told["named"].ndim == told["cue"].ndim + 1 else None
        lead = tuple(told["cue"].shape[:-1] if shape is None else shape)
        told = {key: value.reshape(*lead, -1) for key, value in told.items()}
        if previous is not None:
            return self.condition(self.step(previous, action), {"answer": told["answer"]})
        count = int(np.prod(lead))
        rows = {key: value.reshape(count, 1, -1) for key, value in told.items()}
        first = self.filter({"obs": rows, "action": None})[:, -1]
        return first.map(lambda t: t.reshape(*lead, *t.shape[1:]))

    def _latent(self, h: Tensor, z: Tensor) -> Latent:
        nothing = h.new_zeros(*h.shape[:-1], 0)
        return Latent(h, z, nothing[..., None, :], nothing)

    def _weights(self, latent: Latent) -> Tensor:
        """Log weights of the intents with the answer in z read."""
        tool, answer = latent.h[..., 5].long(), latent.z[..., 0].long()
        told = self.log_answer[tool.clamp(0, 2), answer]
        return latent.h[..., :4] + torch.where((answer > 0)[..., None], told, 0.0)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        last = action.argmax(-1, keepdim=True).to(latent.h.dtype)
        h = torch.cat([self._weights(latent), latent.h[..., 4:5], last], -1)
        return self._latent(h, torch.zeros_like(latent.z))

    def predict_reward(self, latent: Latent) -> Tensor:
        return latent.h[..., 4] * (1 - 3 * self.predict_safety(latent))

    def predict_safety(self, latent: Latent) -> Tensor:
        commit = (latent.h[..., 5].long() - 3).clamp(0, 3)[..., None]
        return 1 - self._weights(latent).softmax(-1).gather(-1, commit)[..., 0]

    def predict_continue(self, latent: Latent) -> Tensor:
        return (latent.h[..., 5] < 3).to(latent.h.dtype)

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        return self._latent(latent.h, obs["answer"].to(latent.h.dtype).expand_as(latent.z))

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        belief = latent.h[..., :4].log_softmax(-1)
        told = self.log_answer[latent.h[..., 5].long(), obs["answer"][..., 0]]
        return torch.logsumexp(belief + told, -1)
