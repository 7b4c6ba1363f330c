"""Pictures are learnt: features stay apart, and imagination moves what moves."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.model.cores import GRU
from bb_wm.model.stochastic import Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode

SIDE = 16


def moving_dot(count: int, rows: int, seed: int) -> list[Episode]:
    """A bright 4 x 4 square on a bright frame; the action moves it by -1, 0 or 1 pixel a row."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        at = int(random.integers(0, SIDE - 4))
        action = random.uniform(-1, 1, (rows, 1)).astype(np.float32)
        pictures = np.full((rows, SIDE, SIDE, 1), 240, np.uint8)
        for t in range(rows):
            pictures[t, 6:10, at : at + 4] = 30
            at = int(np.clip(at + round(2 * float(action[t, 0])), 0, SIDE - 4))
        action[-1] = 0.0
        zeros = np.zeros(rows, np.float32)
        episodes.append(Episode({"obs": pictures}, action, zeros, zeros, False, True))
    return episodes


def test_a_moving_square_is_imagined_and_its_features_do_not_collapse() -> None:
    torch.manual_seed(0)
    config = WorldModelConfig(
        core=GRU(32),
        latent=Gaussian(8),
        hidden=32,
        head_hidden=16,
        features=16,
        warmup=10,
        average=0.95,
        budget=None,
    )
    model = WorldModel(spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8), 1, config)
    store = EpisodeStore(None, model.obs_spec, model.action_spec)
    store.append(moving_dot(60, 16, 0))
    sampler = SequenceSampler(store, batch_size=8, length=12, seed=0)
    for _ in range(150):
        model.update(sampler.sample())
    held = moving_dot(40, 16, 1)
    pictures = np.stack([e.obs["obs"] for e in held])
    actions = torch.from_numpy(np.stack([e.action for e in held]))
    with torch.no_grad():
        latent = model.encode(pictures[:, 0])
        for t in range(1, 6):
            latent = model.encode(pictures[:, t], latent, actions[:, t - 1])
        assert float(latent.sight.std(0).mean()) > 0.2
        left = {}
        for mode in ("mode", "shortcut"):
            imagined = model.rollout(latent, actions[:, 5:9], mode=mode)
            told = model.imagined_obs(imagined)["obs"].numpy()
            left[mode] = float(np.square(told - pictures[:, 6:10].astype(np.float32)).mean())
    still = pictures[:, 5:6].astype(np.float32) - pictures[:, 6:10]
    persistence = float(np.square(still).mean())
    mean = float(pictures.astype(np.float32).var(axis=(0, 1)).mean())
    assert left["mode"] < 0.7 * min(persistence, mean), (left, persistence, mean)
    assert left["shortcut"] < 0.7 * min(persistence, mean), (left, persistence, mean)
