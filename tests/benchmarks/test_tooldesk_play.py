"""The benchmark's gate, given a model that is exactly right, must score as the exact gates do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tooldesk import batch_of
from benchmarks.tooldesk_play import LearnedPlay, forced_pairs
from torch import Tensor

from bb_wm.decide import Ledger, read_ledger
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing import tooldesk_score as scoring
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


@pytest.mark.parametrize(
    ("depth", "twin", "name"),
    [
        (1, "myopic_exact_evsi", "one_call"),
        pytest.param(2, "two_call_lookahead", "two_call", marks=pytest.mark.slow),
    ],
)
def test_an_exact_model_plays_as_the_exact_gate_of_its_depth(
    depth: int, twin: str, name: str
) -> None:
    play = LearnedPlay(ExactDesk(), depth=depth, samples=4, inner=4)  # type: ignore[arg-type]
    found = scoring.score(play)
    assert found.value == pytest.approx(exact.mean_value(exact.gates()[twin]), abs=1e-4)
    line = found.calibration[name]
    assert (line.slope, line.r2, line.sign_accuracy) == pytest.approx((1, 1, 1), abs=1e-3)
    assert line.bias == pytest.approx(0.0, abs=1e-5)
    assert found.useless_share == 0.0


def test_forced_pairs_realise_what_an_exact_model_estimates(tmp_path: Path) -> None:
    """One-call EVSI of the best tool against the paired gains of 150 episodes: within 4 errors."""
    play = LearnedPlay(ExactDesk(), depth=1, samples=4, inner=4)  # type: ignore[arg-type]
    with Ledger(tmp_path / "l.sqlite", durable=False) as ledger:
        forced_pairs(play, ledger, 150)
        (line,) = read_ledger(ledger).calibration
    assert (line.method, line.n) == ("paired", 150)
    assert line.mean_gain == pytest.approx(line.mean_estimate, abs=4 * line.mean_gain_error)
    assert line.slope == pytest.approx(1.0, abs=4 * line.slope_error)
    assert line.slope_error < 0.2


def test_batches_hold_the_rows_of_the_world() -> None:
    desks = tooldesk.sample_desks(50, np.random.default_rng(0))
    batch = batch_of(desks, np.arange(50))
    for row, episode in enumerate(desks.episodes()):
        size = len(episode)
        assert batch["valid"][row].sum() == size
        assert batch["terminated"][row].nonzero()[0].tolist() == [size - 1]
        assert np.array_equal(batch["action"][row, :size], episode.action)
        assert np.array_equal(batch["obs"]["named"][row, :size], episode.obs["named"])
