"""Tensors as safetensors bytes, believed only after every claim of the header has been checked.

safetensors executes nothing, but by itself it accepts a header of 100 MB and, between two reads,
numbers that are not numbers. The door here is narrower: it reads a header of at most 1 MiB and
10,000 tensors, whose places in the file touch, do not overlap and end exactly at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bb_wm.errors import CheckpointError, SaveError

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT: Final = 1 << 20
TENSOR_LIMIT: Final = 10_000
NAME_LIMIT: Final = 512
_ITEM_BYTES: Final = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of `tensors`. Raises SaveError on a NaN or Inf, or beyond the limits."""
    import safetensors.torch

    plain = {}
    for name in sorted(tensors):
        _check_saveable(name, tensors[name])
        plain[name] = tensors[name].detach().to("cpu").clone().contiguous()
    if len(plain) > TENSOR_LIMIT:
        raise SaveError("tensors", expected=f"at most {TENSOR_LIMIT} tensors", actual=len(plain))
    data = bytes(safetensors.torch.save(plain))
    if struct.unpack("<Q", data[:8])[0] > HEADER_LIMIT:
        raise SaveError("tensors", expected="names and shapes within 1 MiB", actual="more")
    return data


def decode_tensors(data: bytes, *, source: str = "tensors") -> dict[str, Tensor]:
    """The tensors of `encode_tensors`. Raises CheckpointError before anything is allocated for a
    header that lies, and afterwards for a NaN or Inf."""
    import safetensors.torch

    check_header(data, source=source)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the reader's own refusals come in many types
        raise CheckpointError(source, expected="safetensors", actual=error) from error
    for name, tensor in tensors.items():
        if not _all_finite(tensor):
            raise CheckpointError(
                source, expected="finite numbers", actual=f"a NaN or Inf in {name!r}"
            )
    return dict(tensors)


def check_header(data: bytes, *, source: str = "tensors") -> None:
    """Raise CheckpointError unless the header describes exactly the bytes that follow it."""
    if len(data) < 8:
        raise CheckpointError(source, expected="8 bytes of length", actual=f"{len(data)} bytes")
    length = struct.unpack("<Q", data[:8])[0]
    if length > min(HEADER_LIMIT, len(data) - 8):
        raise CheckpointError(
            source,
            expected=f"a header of at most {min(HEADER_LIMIT, len(data) - 8)} bytes",
            actual=f"{length}",
        )
    header = _parse_header(data[8 : 8 + length], source)
    spans = sorted(_span(name, entry, source) for name, entry in header.items())
    end = 0
    for first, last, name in spans:
        if first != end:
            raise CheckpointError(
                source, expected=f"{name!r} to begin at byte {end}", actual=f"{first}"
            )
        end = last
    if end != len(data) - 8 - length:
        raise CheckpointError(
            source, expected=f"{end} bytes of numbers", actual=f"{len(data) - 8 - length}"
        )


def _parse_header(raw: bytes, source: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(source, expected="a JSON header", actual=error) from error
    if not isinstance(header, dict):
        raise CheckpointError(source, expected="a JSON object", actual=type(header).__name__)
    header.pop("__metadata__", None)
    if len(header) > TENSOR_LIMIT:
        raise CheckpointError(
            source, expected=f"at most {TENSOR_LIMIT} tensors", actual=len(header)
        )
    return header


def _span(name: str, entry: Any, source: str) -> tuple[int, int, str]:
    def whole(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 62

    wrong = CheckpointError(source, expected=f"a true entry for {name[:40]!r}", actual=entry)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _ITEM_BYTES or len(name) > NAME_LIMIT:
        raise wrong
    if not isinstance(shape, list) or not all(map(whole, shape)) or len(shape) > 32:
        raise wrong
    if not isinstance(place, list) or len(place) != 2 or not all(map(whole, place)):
        raise wrong
    if place[1] - place[0] != math.prod(shape) * _ITEM_BYTES[kind]:
        raise wrong
    return place[0], place[1], name


def _all_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _check_saveable(name: str, tensor: Tensor) -> None:
    import torch

    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
        raise SaveError("tensors", expected=f"names of 1..{NAME_LIMIT} characters", actual=name)
    if not isinstance(tensor, torch.Tensor):
        raise SaveError(f"tensors[{name!r}]", expected="a tensor", actual=type(tensor).__name__)
    if not _all_finite(tensor):
        raise SaveError(
            f"tensors[{name!r}]",
            expected="finite numbers",
            actual=f"{int((~tensor.isfinite()).sum())} NaN or Inf",
            hint="nothing was written; the last checkpoint is intact.",
        )


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes: equal exactly when the states are."""
    return hashlib.sha256(_canonical(tensors)).hexdigest()


def _canonical(tensors: Mapping[str, Tensor]) -> bytes:
    import torch

    pieces = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        pieces.append(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        pieces.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return b"".join(pieces)
