"""The first pass of the door: names, kinds, shapes, sizes, devices; no number is read yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from bb_wm.data.limits import EXACT_IN_FLOAT32
from bb_wm.errors import BatchError, DeviceError, DtypeError, InputTypeError, ResourceError
from bb_wm.types import ObsEntry, ObsSpec

Role = Literal["float", "vector", "seen", "image", "index", "flag"]
Array = np.ndarray | torch.Tensor

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TAKEN: dict[Role, tuple[str, ...]] = {
    "float": ("float32",),
    "vector": ("float32", *EXACT_IN_FLOAT32),
    "seen": ("float32", "float64", *EXACT_IN_FLOAT32),
    "image": ("uint8",),
    "index": INTEGERS,
    "flag": ("bool",),
}
_STORED: dict[Role, tuple[torch.dtype, str]] = {
    "float": (torch.float32, "float32"),
    "vector": (torch.float32, "float32"),
    "seen": (torch.float32, "float32"),
    "image": (torch.uint8, "uint8"),
    "index": (torch.int64, "int64"),
    "flag": (torch.bool, "bool"),
}
_ROLE_OF_KIND: dict[str, Role] = {"vector": "vector", "image": "image", "discrete": "index"}


@dataclass(frozen=True, slots=True)
class Field:
    """One array at the door: what it is called, what it must be, and the array itself."""

    name: str
    role: Role
    tail: tuple[int, ...]  # the shape after the batch axes
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)


def obs_name(entry: ObsEntry, name: str = "obs") -> str:
    """What an error calls this key: "obs", or "obs['arm']"."""
    return name if entry.key == "obs" else f"{name}[{entry.key!r}]"


def obs_fields(
    keyed: Mapping[str, Any], spec: ObsSpec, name: str = "obs", *, rounded: bool = False
) -> list[Field]:
    """Every key of the spec as a field; `rounded` takes float64 vectors too."""
    wanted = [entry.key for entry in spec.entries]
    if spec.single and isinstance(keyed[wanted[0]], Mapping):
        keyed = keyed[wanted[0]]
    if len(keyed) != len(wanted) or any(key not in keyed for key in wanted):
        raise BatchError(name, expected=f"keys {wanted}", actual=f"keys {sorted(map(str, keyed))}")
    fields = []
    for entry in spec.entries:
        label = obs_name(entry, name)
        array = array_of(label, keyed[entry.key])
        role = _ROLE_OF_KIND[entry.kind]
        role = "seen" if rounded and role == "vector" else role
        fields.append(Field(label, role, entry.shape, array))
        check_kind(fields[-1])
    return fields


def array_of(name: str, value: Any) -> Array:
    """The value as an array, nothing converted. Raises InputTypeError on what is none."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, int | float | complex | np.generic):  # its shape () will be judged
        value = np.asarray(value, np.float32 if type(value) is float else None)
    if value is None or isinstance(value, str | bytes):
        raise DtypeError(name, expected="an array of numbers", actual=type(value).__name__)
    if (
        not isinstance(value, np.ndarray)
        or isinstance(value, np.ma.MaskedArray)
        or value.dtype.names is not None
    ):
        what = "a structured array" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputTypeError(
            name,
            expected="a numpy array or a torch tensor",
            actual=what,
            hint="np.asarray(x, np.float32), or x.to_numpy(np.float32) of a table.",
        )
    return value


def dtype_of(array: Array) -> str:
    """The name of its dtype, torch and numpy alike."""
    if isinstance(array, torch.Tensor):
        return str(array.dtype).removeprefix("torch.")
    return array.dtype.name if array.dtype.isnative else f"byte-swapped {array.dtype.name}"


def check_kind(field: Field) -> None:
    """Raise DtypeError unless the field holds the kind of number its role needs."""
    dtype = dtype_of(field.array)
    if dtype not in _TAKEN[field.role]:
        stored = _STORED[field.role][1]
        raise DtypeError(
            field.name,
            expected=" or ".join(_TAKEN[field.role][:1] if stored != "int64" else ("an integer",)),
            actual=f"dtype {dtype}",
            hint=f"nothing is cast silently; cast it yourself to {stored} where that is right.",
        )


def common_lead(fields: list[Field], learn: bool) -> tuple[int, int]:
    """[B, T], as most fields have it."""
    votes: Counter[tuple[int, int]] = Counter()
    for field in fields:
        if len(field.shape) == 2 + len(field.tail) and field.shape[2:] == field.tail:
            votes[field.shape[0], field.shape[1]] += 1
    for field in fields:  # none fits: whatever two axes there are, so that the message has numbers
        if not votes and len(field.shape) >= 2:
            votes[field.shape[0], field.shape[1]] += 1
    if not votes:
        first = fields[0]
        raise BatchError(
            first.name, expected=["B", "T", *first.tail], actual=list(first.shape), hint=_AXES
        )
    lead = votes.most_common(1)[0][0]
    least = 2 if learn else 1
    if lead[0] < 1 or lead[1] < least:
        raise BatchError(
            "batch",
            expected=f"B >= 1 sequences of T >= {least} rows",
            actual=f"[B, T] = {list(lead)}",
            hint="a transition needs two rows." if lead[1] == 1 else "",
        )
    return lead


_AXES = "batches have sequences first and rows second; one sequence is x[None]."


def check_shape(field: Field, lead: tuple[int, int], fields: list[Field]) -> None:
    """Raise BatchError unless the field is [B, T, *tail], and guess what was meant."""
    want = (*lead, *field.tail)
    shape = field.shape
    if shape == want or (field.role == "index" and field.tail == (1,) and shape == lead):
        return
    hint = ""
    if shape == (*want, 1):
        hint = "squeeze the last axis; nothing is broadcast."
    elif shape == lead and field.tail == (1,):
        hint = "add the last axis: x[..., None]; nothing is broadcast."
    elif shape == (lead[1], lead[0], *field.tail):
        hint = "time and batch swapped?"
    elif len(shape) == len(want) - 1:
        hint = _AXES
    elif len(shape) == len(want) and shape[2:] == field.tail:
        other = next(f for f in fields if f.shape[:2] == lead)
        hint = f"{other.name} has [B, T] = {list(lead)}."
    raise BatchError(
        field.name,
        expected=f"{_letters(field)} = {list(want)}",
        actual=list(shape),
        hint=hint,
    )


def _letters(field: Field) -> str:
    return "[B, T]" if not field.tail else "[B, T, A]" if field.name == "action" else "[B, T, ...]"


def check_size(fields: list[Field], max_bytes: int, more: int = 0) -> None:
    """Raise ResourceError when all fields together would need more than `max_bytes`."""
    total = more
    for field in fields:
        count = 1
        for size in field.shape:
            count *= size
        total += count * _STORED[field.role][0].itemsize
    if total > max_bytes:
        raise ResourceError(
            "batch",
            expected=f"at most {max_bytes} bytes",
            actual=f"{total} bytes",
            hint="use fewer or shorter sequences.",
        )


def check_tensor(field: Field, place: torch.device) -> None:
    """Raise DeviceError or BatchError on a tensor that is elsewhere or has a graph."""
    tensor = field.array
    if not isinstance(tensor, torch.Tensor):
        return
    there = tensor.device
    same = place.index is None or there.index is None or place.index == there.index
    if there.type != place.type or not same:
        raise DeviceError(
            field.name,
            expected=f"a tensor on {place}",
            actual=f"one on {there}",
            hint=f"move it: x.to({str(place)!r}).",
        )
    if tensor.layout is not torch.strided:
        raise DtypeError(field.name, expected="a dense tensor", actual=tensor.layout)
    if tensor.requires_grad:
        raise BatchError(
            field.name,
            expected="data, without a graph",
            actual="a tensor that requires grad",
            hint="x.detach()",
        )


def tensor_of(field: Field, place: torch.device) -> torch.Tensor:
    """The field as a tensor of its stored dtype on `place`; numpy arrays are copied."""
    dtype, name = _STORED[field.role]
    array = field.array
    if isinstance(array, torch.Tensor):
        return array.to(dtype).contiguous()
    if field.role == "index" and array.dtype == np.uint64:
        array = np.minimum(array, np.uint64(2**62))  # so that no wrap-around hides it
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, which is refused
        return torch.from_numpy(np.array(array, name, order="C", copy=True)).to(place)
