"""A block of code that looks at a model and cannot change what it will learn."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bb_wm.rssm import WorldModel


@dataclass(slots=True)
class Check:
    """`changed` names the first few tensors that were put back; empty when none was touched."""

    changed: str = ""


@contextlib.contextmanager
def unchanged(model: WorldModel) -> Iterator[Check]:
    """Puts back the model's whole state, its mode and the global generators after the block."""
    import torch

    check = Check()
    before = {name: tensor.detach().clone() for name, tensor in model.state_tensors().items()}
    mode = getattr(model, "training", None)
    chance = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    try:
        yield check
    finally:
        torch.set_rng_state(chance[0])
        np.random.set_state(chance[1])
        random.setstate(chance[2])
        after = model.state_tensors()
        changed = [
            name
            for name, tensor in before.items()
            if name not in after or not torch.equal(after[name], tensor)
        ]
        if changed or set(after) != set(before):
            model.load_state_tensors(before)
            check.changed = ", ".join(changed[:3]) or "new tensors"
        if mode is not None and getattr(model, "training", None) != mode:
            model.train(mode)  # type: ignore[attr-defined]
