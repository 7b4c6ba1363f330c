"""One episode per .npz file: what stands in it, and how it is read without trusting it.

| name | shape | |
|---|---|---|
| obs, or obs.KEY for every key | [T, ...] | float, int, or uint8 images |
| action | [T - 1] or [T], native or flat | action[t] was done in row t |
| reward | as `rewards` says | |
| safety (or cost) | as reward, optional | risk >= 0, larger is worse |
| terminated, truncated | one bool, or as reward | truncated optional |
| action_mask | [T, A], optional | |
| rewards | text, optional | "leaving" or "arriving"; what the file says wins |
| obs_spec, action_spec | JSON text, optional | ObsSpec.to_json, ActionSpec.to_json |

Shapes and sizes are read from the headers and refused before anything is allocated; nothing is
unpickled.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bb_wm.data.limits import MAX_EPISODE_BYTES
from bb_wm.errors import DataError, InputTypeError

_KNOWN = {
    "action",
    "reward",
    "safety",
    "cost",
    "terminated",
    "truncated",
    "action_mask",
    "rewards",
    "obs_spec",
    "action_spec",
}
_MAX_MEMBERS = 1000
_MAX_TEXT = 1 << 20


def read_npz(path: Path) -> dict[str, Any]:
    """name -> array, or text for `rewards` and the specs. DataError names file and field."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            return {
                member.filename.removesuffix(".npy"): _read_member(path, archive, member)
                for member in members
            }
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            str(path.name), expected="a readable .npz archive", actual=f"{error}"
        ) from error
    except Exception as error:
        if isinstance(error, DataError):
            raise
        raise DataError(  # zlib and header parsers have errors of their own
            str(path.name), expected="an intact .npz archive", actual=f"{type(error).__name__}"
        ) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(names) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise DataError(
            path.name, expected=f"at most {_MAX_MEMBERS} different arrays", actual=len(names)
        )
    for name in names:
        plain = name.removesuffix(".npy")
        if plain == name or not (plain in _KNOWN or plain == "obs" or plain.startswith("obs.")):
            raise DataError(
                path.name,
                expected="only obs, obs.KEY, " + ", ".join(sorted(_KNOWN)),
                actual=repr(name),
            )
    total = sum(member.file_size for member in members)
    if total > MAX_EPISODE_BYTES:
        raise DataError(
            path.name, expected=f"at most {MAX_EPISODE_BYTES} bytes unpacked", actual=total
        )


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    name = member.filename.removesuffix(".npy")
    field = f"{path.name}: {name}"
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream, max_header_size=10_000)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(stream, max_header_size=10_000)
        else:
            raise DataError(field, expected=".npy version 1 or 2", actual=version)
        shape, fortran, dtype = header
        text = name in ("rewards", "obs_spec", "action_spec")
        if dtype.hasobject or dtype.kind not in ("U" if text else "biuf"):
            raise DataError(
                field, expected="text" if text else "an array of numbers", actual=f"dtype {dtype}"
            )
        size = math.prod(shape) * dtype.itemsize
        if stream.tell() + size != member.file_size or (text and size > _MAX_TEXT):
            raise DataError(
                field,
                expected=f"{member.file_size - stream.tell()} bytes of data",
                actual=f"{size} by its own header",
            )
        raw = stream.read(size)
        stream.read(1)  # to the end, where the archive's checksum is compared
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return str(array.reshape(())) if text else array


def npz_bytes(arrays: dict[str, Any]) -> bytes:
    """An .npz archive of numeric arrays and texts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # without a clock: same rows, same bytes
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
    return buffer.getvalue()


def spec_text(spec: Any) -> str:
    """A spec as the text stored in a file."""
    if not hasattr(spec, "to_json"):
        raise InputTypeError("spec", expected="ObsSpec or ActionSpec", actual=type(spec).__name__)
    return json.dumps(spec.to_json(), sort_keys=True)
