"""The strict door: what the outside calls a batch or an observation becomes tensors, or an error.

Two passes: first names, kinds, shapes, sizes and devices, which touches no number and allocates
nothing; then the numbers, each tensor once, and what the rows say about time (`bb_wm.data.checks`).
Numpy arrays are copied; contiguous tensors are used as they are and never written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bb_wm.data.checks import (
    check_actions,
    check_mask,
    check_numbers,
    check_obs,
    check_rows,
    check_varied,
)
from bb_wm.data.fields import (
    INTEGERS,
    Field,
    Role,
    array_of,
    check_kind,
    check_shape,
    check_size,
    check_tensor,
    common_lead,
    dtype_of,
    obs_fields,
    obs_name,
    tensor_of,
)
from bb_wm.data.limits import MAX_BATCH_BYTES
from bb_wm.errors import BatchError, DtypeError, InputTypeError
from bb_wm.types import ActionSpec, Batch, ObsEntry, ObsSpec

_REQUIRED = ("obs", "action", "reward", "terminated")
_OPTIONAL = ("safety", "is_first", "valid", "truncated", "action_mask")


def as_batch(
    raw: Batch | Mapping[str, Any],
    obs_spec: ObsSpec,
    action_spec: ActionSpec,
    *,
    masked: bool = False,
    device: torch.device | str = "cpu",
    learn: bool = True,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Batch:
    """A Batch in which every number, shape and row has been checked.

    `raw` is a Batch or a mapping with obs, action, reward, terminated and, when they differ from
    the default, safety (0), is_first (True at t = 0 only), valid (all True), action_mask (required
    when `masked`), truncated. With `truncated`, every later is_first must follow a row that is
    terminated or truncated; without it, is_first alone says that what came before was abandoned.
    Actions are flat float32 [B, T, A], or the outside's own indices or mapping.

    Types: float32; bool for flags; uint8 for images; any integer for discrete keys. Nothing else is
    cast, except bool, (u)int8 and (u)int16 of vector keys, which float32 holds exactly. A discrete
    key of one variable may lack its last axis. Nothing is broadcast.

    `learn=False` lifts what only learning needs: two rows, one transition, and rows that differ.
    Raises BatchError (EpisodeError, ActionError, RangeError), DtypeError, InputTypeError,
    DeviceError, or ResourceError; nothing is allocated before names, kinds, shapes and sizes agree.
    """
    place = torch.device(device)
    given = _named(raw, masked)
    fields = [
        *obs_fields(obs_spec.keyed(given["obs"]), obs_spec),
        *_row_fields(given, action_spec),
    ]
    lead = common_lead(fields, learn)
    for field in fields:
        check_shape(field, lead, fields)
    native = not any(field.name == "action" for field in fields)
    check_size(fields, max_bytes, 4 * lead[0] * lead[1] * action_spec.size if native else 0)
    for field in fields:
        check_tensor(field, place)

    columns = {field.name: tensor_of(field, place) for field in fields}
    if native:
        flat = _flatten_native(given["action"], action_spec, lead)
        columns["action"] = torch.from_numpy(flat).to(place)
    obs = {entry.key: _with_axis(entry, columns[obs_name(entry)]) for entry in obs_spec.entries}
    batch = _complete(obs, columns, lead)
    check_numbers(batch, obs_spec)
    done = check_rows(batch, columns.get("truncated"), learn=learn)
    check_actions(batch.action, done, action_spec)
    if batch.action_mask is not None:
        check_mask(batch.action_mask, batch, done, action_spec)
    if learn:
        check_varied(batch)
    return batch


def as_obs(
    obs: Any, obs_spec: ObsSpec, *, device: torch.device | str = "cpu", field: str = "obs"
) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """Checked tensors [*batch, ...] per key, and the batch shape; () for a single observation.

    The same rules as for `as_batch`, but float64 vectors are rounded to float32: simulators give
    them, and one observation is seen, not learnt from. A discrete key of one variable may be a
    plain int or lack its last axis; [1] is then read as one observation with its axis.
    """
    place = torch.device(device)
    fields = obs_fields(obs_spec.keyed(obs), obs_spec, name=field, rounded=True)
    leads = []
    for entry, item in zip(obs_spec.entries, fields, strict=True):
        cut = len(item.shape) - len(entry.shape)
        if entry.kind == "discrete" and entry.shape == (1,) and item.shape[-1:] != (1,):
            cut = len(item.shape)
        elif cut < 0 or item.shape[cut:] != entry.shape:
            raise BatchError(
                item.name,
                expected=f"[*batch, {', '.join(map(str, entry.shape))}]",
                actual=list(item.shape),
            )
        leads.append(item.shape[:cut])
        if leads[-1] != leads[0]:
            raise BatchError(
                item.name,
                expected=f"batch shape {list(leads[0])} like {fields[0].name}",
                actual=list(leads[-1]),
            )
    check_size(fields, MAX_BATCH_BYTES)
    for item in fields:
        check_tensor(item, place)
    tensors = {
        entry.key: _with_axis(entry, tensor_of(item, place), len(leads[0]))
        for entry, item in zip(obs_spec.entries, fields, strict=True)
    }
    for entry, item in zip(obs_spec.entries, fields, strict=True):
        check_obs(item.name, entry, tensors[entry.key])
    return tensors, leads[0]


def _named(raw: Batch | Mapping[str, Any], masked: bool) -> dict[str, Any]:
    if isinstance(raw, Batch):
        given = {name: getattr(raw, name) for name in Batch.__dataclass_fields__}
        if given["action_mask"] is None:
            del given["action_mask"]
    elif isinstance(raw, Mapping):
        given = dict(raw)
    else:
        raise InputTypeError(
            "batch",
            expected="a Batch, or a mapping of arrays",
            actual=type(raw).__name__,
            hint="stack rows to {'obs': [B, T, ...], 'action': [B, T, A], 'reward': [B, T], ...}.",
        )
    required = (*_REQUIRED, "action_mask") if masked else _REQUIRED
    missing = [name for name in required if name not in given]
    extra = [name for name in given if name not in (*_REQUIRED, *_OPTIONAL)]
    if missing:
        raise BatchError(
            "batch", expected=f"the keys {missing} too", actual=sorted(map(str, given))
        )
    if extra:
        raise BatchError(
            "batch",
            expected=f"only {', '.join((*_REQUIRED, *_OPTIONAL))}",
            actual=f"also {sorted(map(str, extra))}",
        )
    return given


def _row_fields(given: Mapping[str, Any], action_spec: ActionSpec) -> list[Field]:
    fields = []
    for name, value in given.items():
        if name == "obs" or (name == "action" and isinstance(value, Mapping)):
            continue
        array = array_of(name, value)
        role: Role = "float" if name in ("action", "reward", "safety") else "flag"
        if name == "action" and action_spec.form != "array" and dtype_of(array) in INTEGERS:
            continue
        tail = (action_spec.size,) if name in ("action", "action_mask") else ()
        fields.append(Field(name, role, tail, array))
        check_kind(fields[-1])
    return fields


def _with_axis(entry: ObsEntry, tensor: torch.Tensor, lead: int = 2) -> torch.Tensor:
    return tensor.unsqueeze(-1) if tensor.ndim < lead + len(entry.shape) else tensor


def _complete(
    obs: dict[str, torch.Tensor], columns: Mapping[str, torch.Tensor], lead: tuple[int, int]
) -> Batch:
    reward = columns["reward"]
    is_first = columns.get("is_first")
    if is_first is None:
        is_first = torch.zeros(lead, dtype=torch.bool, device=reward.device)
        is_first[:, 0] = True
    valid = columns.get("valid")
    if valid is None:
        valid = torch.ones(lead, dtype=torch.bool, device=reward.device)
    safety = columns.get("safety")
    return Batch(
        obs=obs,
        action=columns["action"],
        reward=reward,
        safety=torch.zeros_like(reward) if safety is None else safety,
        terminated=columns["terminated"],
        is_first=is_first,
        valid=valid,
        action_mask=columns.get("action_mask"),
    )


def _flatten_native(action: Any, spec: ActionSpec, lead: tuple[int, int]) -> np.ndarray:
    """Indices or a mapping of the outside -> flat [B, T, A]; floats must be float32 already."""
    flat = spec.flatten(_native_leaves("action", action))
    if flat.shape != (*lead, spec.size):
        raise BatchError(
            "action",
            expected=f"indices for [B, T] = {list(lead)}",
            actual=f"a shape that flattens to {list(flat.shape)}",
        )
    return np.array(flat, np.float32, order="C")


def _native_leaves(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _native_leaves(f"{name}[{key!r}]", leaf) for key, leaf in value.items()}
    if isinstance(value, tuple):
        return tuple(_native_leaves(f"{name}[{i}]", leaf) for i, leaf in enumerate(value))
    array = array_of(name, value)
    if dtype_of(array) not in ("float32", *INTEGERS):
        raise DtypeError(name, expected="float32, or integers", actual=f"dtype {dtype_of(array)}")
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
