"""From spaces and settings to a network; from a network to tensors by name and back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from bb_wm.errors import CheckpointError, ConfigError, DeviceError
from bb_wm.model.dynamics import RSSM
from bb_wm.model.network import Network

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.config import WorldModelConfig
    from bb_wm.types import ActionSpec, ObsSpec


def build_network(obs_spec: ObsSpec, action_spec: ActionSpec, config: WorldModelConfig) -> Network:
    """A network with weights from `config.seed`; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rssm = RSSM(
            obs_spec,
            action_spec,
            core=config.core,
            latent=config.latent,
            hidden=config.hidden,
            layers=config.layers,
            steps=config.objective.steps,
            features=config.features,
            fixed_scale=config.fixed_scale,
        )
        return Network(
            rssm,
            action_size=action_spec.size,
            head_hidden=config.head_hidden,
            masked=config.action_mask,
        )


def find_device(device: str | torch.device) -> torch.device:
    """The torch device, or DeviceError naming what is there; never a silent fall-back."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is not None and found.type == "cpu":
        return torch.device("cpu")
    if found is not None and found.type == "cuda" and f"cuda:{found.index or 0}" in available:
        return torch.device("cuda", found.index or 0)
    raise DeviceError("device", expected=f"one of {available}", actual=repr(device))


def check_compiler(device: torch.device, options: Mapping[str, Any]) -> None:
    """ConfigError where torch.compile would find out at the first step that it has no compiler."""
    needed = os.environ.get("CXX", "g++")
    compiles = device.type == "cpu" and options.get("backend", "inductor") == "inductor"
    if compiles and shutil.which(needed) is None:
        raise ConfigError(
            "compile",
            expected="a C++ compiler, which torch.compile uses on a CPU",
            actual=f"no {needed}",
            hint="install one (on Debian: apt-get install g++) or name it in CXX.",
        )


GENERATOR = "generator/"  # how the names of generators' states begin


def check_same_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """CheckpointError listing the first differences of names, shapes and dtypes."""
    problems = [f"missing {name}" for name in expected if name not in given]
    problems += [f"unknown {name}" for name in given if name not in expected]
    for name, tensor in expected.items():
        if name not in given or name.startswith(GENERATOR):  # as large as its device makes it
            continue
        other = given[name]
        if other.shape != tensor.shape:
            problems.append(f"{name}: {list(other.shape)} instead of {list(tensor.shape)}")
        elif other.dtype != tensor.dtype:
            problems.append(f"{name}: {other.dtype} instead of {tensor.dtype}")
    if problems:
        shown = "; ".join(problems[:10])
        raise CheckpointError(
            "tensors",
            expected=f"the {len(expected)} tensors of this model",
            actual=f"{len(problems)} differences: {shown}",
            hint="the checkpoint belongs to another architecture or version.",
        )
