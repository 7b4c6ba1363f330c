"""Small networks and batches for the model's tests; every core with every family."""

from __future__ import annotations

import torch

from bb_wm.config import WorldModelConfig
from bb_wm.model.cores import GRU, Core, Transformer
from bb_wm.model.network import Network
from bb_wm.model.objective import Noise, Objective
from bb_wm.model.stochastic import Categorical, Gaussian, Stochastic
from bb_wm.rssm.build import build_network
from bb_wm.types import ActionSpec, Batch, ObsSpec

CORES: list[Core] = [GRU(16), Transformer(16, layers=2, heads=2, window=6)]
FAMILIES: list[Stochastic] = [Gaussian(4), Categorical(3, 4)]
PAIRS = [(core, family) for core in CORES for family in FAMILIES]
IDS = [f"{type(c).__name__}-{type(f).__name__}" for c, f in PAIRS]


def small_config(core: Core, family: Stochastic, **changes: object) -> WorldModelConfig:
    settings: dict[str, object] = {
        "core": core,
        "latent": family,
        "objective": Objective(steps=3, starts=2),
        "hidden": 16,
        "head_hidden": 8,
        "budget": None,
        **changes,
    }
    return WorldModelConfig(**settings)  # type: ignore[arg-type]


def small_network(core: Core, family: Stochastic, *, double: bool = False) -> Network:
    network = build_network(ObsSpec.of(3), ActionSpec.of(2), small_config(core, family))
    # Zero-initialised outputs would hide what depends on what.
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if bool((parameter == 0).all()):
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.double() if double else network


def small_batch(batch: int = 4, rows: int = 8, *, seed: int = 0, double: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator)
        return values.double() if double else values

    flags = torch.zeros(batch, rows, dtype=torch.bool)
    first = flags.clone()
    first[:, 0] = True
    return Batch(
        obs={"obs": normal(batch, rows, 3)},
        action=normal(batch, rows, 2),
        reward=normal(batch, rows),
        safety=normal(batch, rows).abs(),
        terminated=flags,
        is_first=first,
        valid=~flags,
    )


def small_noise(network: Network, batch: Batch, starts: tuple[int, ...] = (0, 2)) -> Noise:
    count, rows = batch.shape
    generator = torch.Generator().manual_seed(7)
    size = network.rssm.family.noise_size
    noise = torch.randn(count, rows, size, generator=generator)
    return Noise(noise.to(batch.reward.dtype), torch.tensor(starts))
