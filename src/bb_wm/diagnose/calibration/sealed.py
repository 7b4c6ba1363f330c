"""Keeping what was fitted for one model: a sealed JSON file that is read for that model alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bb_wm import durable
from bb_wm.durable.tensors import digest_tensors
from bb_wm.errors import CheckpointError
from bb_wm.rssm import WorldModel
from bb_wm.rssm.build import GENERATOR

if TYPE_CHECKING:
    from bb_wm.protocols import Dynamics


def write_sealed(path: str | os.PathLike[str], data: dict[str, Any], kind: str) -> None:
    """Write plain JSON under a seal, atomically."""
    durable.write_file(path, durable.seal_json(data, kind))


def read_sealed(path: str | os.PathLike[str], kind: str) -> Any:
    """What `write_sealed` wrote; CheckpointError for a broken seal or a file that is too large."""
    raw = durable.read_file(path, error=CheckpointError, max_bytes=durable.MAX_JSON_BYTES)
    return durable.unseal_json(raw, error=CheckpointError, field=kind)


def model_digest(model: Dynamics) -> str:
    """SHA-256 of what a WorldModel imagines with; for anything else the name of its class."""
    if not isinstance(model, WorldModel):
        return f"{type(model).__module__}.{type(model).__qualname__}"
    tensors = model.state_tensors()
    return digest_tensors({k: v for k, v in tensors.items() if not k.startswith(GENERATOR)})


def check_model(fitted_for: str, model: Dynamics) -> None:
    """CheckpointError unless `model` is the one whose digest is `fitted_for`."""
    actual = model_digest(model)
    if fitted_for != actual:
        raise CheckpointError(
            "model",
            expected=f"the one it was fitted for, {fitted_for[:12]}",
            actual=actual[:12],
            hint="what is fitted holds for one model: fit again after training on.",
        )
