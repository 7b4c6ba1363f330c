"""The door for actions and latents: native or flat in, flat tensors of the right shape out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.errors import ActionError, ConfigError, DeviceError, InputTypeError, LatentError
from bb_wm.types import Latent

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.dynamics import RSSM
    from bb_wm.types import ActionSpec

_LATENT_FIELDS = ("h", "z", "memory")


def check_latent(latent: object, rssm: RSSM) -> Latent:
    """The latent, or LatentError when its sizes are another model's or a number is broken."""
    if not isinstance(latent, Latent):
        raise InputTypeError(
            "latent",
            expected="a Latent from encode, filter or rollout",
            actual=type(latent).__name__,
        )
    like = rssm.empty(latent.batch_shape)
    for name in _LATENT_FIELDS:
        mine, theirs = getattr(like, name), getattr(latent, name)
        if theirs.shape != mine.shape:
            raise LatentError(
                f"latent.{name}",
                expected=f"{list(mine.shape)} for this model",
                actual=list(theirs.shape),
                hint="was it encoded by another model, or for another batch of rows?",
            )
        if theirs.device != mine.device:
            raise DeviceError(f"latent.{name}", expected=mine.device, actual=theirs.device)
        if not bool(torch.isfinite(theirs).all()):
            raise LatentError(f"latent.{name}", expected="finite numbers", actual="NaN or infinity")
    return latent


def as_flat_action(
    action: Any, spec: ActionSpec, batch_shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """One action per row, native or flat -> [*batch, A]. Raises ActionError."""
    flat = _flat(action, spec, device)
    if tuple(flat.shape[:-1]) != batch_shape:
        raise ActionError(
            "action",
            expected=f"one action for each of the rows {list(batch_shape)}",
            actual=list(flat.shape[:-1]),
        )
    return flat


def as_actions(
    actions: Any,
    spec: ActionSpec,
    batch_shape: tuple[int, ...],
    horizon: int | None,
    device: torch.device,
) -> tuple[Tensor, tuple[int, ...]]:
    """Action sequences -> ([*batch, *extra, H, A], extra), extra being candidate axes."""
    flat = _flat(actions, spec, device)
    lead = len(batch_shape)
    if flat.ndim < lead + 2 or tuple(flat.shape[:lead]) != batch_shape:
        raise ActionError(
            "actions",
            expected=f"[*{list(batch_shape)}, horizon, {spec.size}], candidate axes before horizon",
            actual=list(flat.shape),
            hint="actions start with the latent's batch axes.",
        )
    if flat.shape[-2] == 0:
        raise ConfigError("actions", expected="at least one step", actual=list(flat.shape))
    if horizon is not None:
        if flat.shape[-2] < horizon:
            raise ActionError(
                "actions", expected=f"at least horizon = {horizon} steps", actual=flat.shape[-2]
            )
        flat = flat[..., :horizon, :]
    return flat, tuple(flat.shape[lead:-2])


def _flat(action: Any, spec: ActionSpec, device: torch.device) -> Tensor:
    if isinstance(action, torch.Tensor):
        return _flat_tensor(action, spec, device)
    if isinstance(action, list | tuple) and spec.form != "mapping":
        action = np.asarray(action, np.float32 if spec.form == "array" else None)
    return torch.from_numpy(spec.flatten(action)).to(device)


def _flat_tensor(action: Tensor, spec: ActionSpec, device: torch.device) -> Tensor:
    if action.device != device:
        raise DeviceError("action", expected=device, actual=action.device)
    whole = action.is_floating_point() and action.ndim and action.shape[-1] == spec.size
    if whole and action.requires_grad:
        return action.float()  # a policy that learns through the model: keep its graph
    if not whole or spec.form != "mapping":
        values = action.detach().cpu().numpy()
        return torch.from_numpy(spec.flatten(values)).to(device)
    if not bool(torch.isfinite(action).all()):
        raise ActionError("action", expected="finite numbers", actual="NaN or infinity")
    return action.float()
