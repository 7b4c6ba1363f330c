"""Episodes from a Minari dataset's HDF5 file, read with h5py alone: no Minari, no downloads.

Minari stores T observations, T - 1 actions and rewards per episode: rewards "leaving". A risk in
infos/cost has T numbers (infos of the reset included), so it arrives already.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from bb_wm.data.limits import MAX_EPISODE_BYTES
from bb_wm.errors import DataError, MissingExtraError

_MAX_METADATA = 16 << 20
_MAX_EPISODES = 10_000_000


def minari_file(path: Path) -> Path | None:
    """The HDF5 file of a dataset folder (the folder itself or its data/), if it is one."""
    for folder in (path, path / "data"):
        candidate = folder / "main_data.hdf5"
        if candidate.is_file():
            return candidate
    return None


def read_minari(path: Path, safety_key: str) -> list[dict[str, Any]]:
    """The raw arrays of every episode as `episode_from_arrays` wants them, in their order."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            path.name, expected="h5py", actual="absent", hint='pip install "bb_wm[minari]"'
        ) from error
    try:
        with h5py.File(path, "r") as file:
            numbered = sorted((_number(path, name), name) for name in file)
            if not numbered or len(numbered) > _MAX_EPISODES:
                raise DataError(path.name, expected="groups episode_0, ...", actual=len(numbered))
            return [
                _episode(path, _node(path, file, name), name, safety_key) for _, name in numbered
            ]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path.name, expected="an intact HDF5 file", actual=str(error)) from error


def read_spaces(path: Path) -> tuple[Any, Any]:
    """Observation and action space of metadata.json beside the file; None, None where absent."""
    metadata = path.with_name("metadata.json")
    if not metadata.is_file():
        return None, None
    if metadata.stat().st_size > _MAX_METADATA:
        raise DataError(
            metadata.name, expected=f"<= {_MAX_METADATA} bytes", actual=metadata.stat().st_size
        )
    try:
        told = json.loads(metadata.read_text(encoding="utf-8"))
        texts = told["observation_space"], told["action_space"]
        return space_of(json.loads(texts[0])), space_of(json.loads(texts[1]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            metadata.name, expected="Minari's description of both spaces", actual=repr(error)
        ) from error


def space_of(told: Any) -> Any:
    """A Gymnasium space from Minari's JSON form."""
    from gymnasium import spaces

    kind = told["type"]
    if kind == "Box":
        shape, dtype = tuple(int(n) for n in told["shape"]), np.dtype(str(told["dtype"]))
        if dtype.kind not in "iuf" or math.prod(shape) * 8 > MAX_EPISODE_BYTES:
            raise DataError("space", expected="a Box of numbers", actual=f"{dtype} {shape}")
        bounds = [np.broadcast_to(np.asarray(told[side], dtype), shape) for side in ("low", "high")]
        return spaces.Box(bounds[0], bounds[1], shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(int(told["n"]), start=int(told.get("start", 0)))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(told["nvec"], np.int64))
    if kind == "MultiBinary":
        return spaces.MultiBinary(told["n"])
    if kind == "Dict":
        return spaces.Dict({str(k): space_of(v) for k, v in told["subspaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([space_of(v) for v in told["subspaces"]])
    raise DataError("space", expected="Box, Discrete, Multi*, Dict or Tuple", actual=str(kind))


def _number(path: Path, name: str) -> int:
    match = re.fullmatch(r"episode_(\d{1,9})", name)
    if match is None:
        raise DataError(path.name, expected="groups episode_0, ...", actual=repr(name))
    return int(match[1])


def _episode(path: Path, group: Any, name: str, safety_key: str) -> dict[str, Any]:
    budget = [MAX_EPISODE_BYTES]

    def read(node: str) -> Any:
        return _value(f"{path.name}: {name}/{node}", path, _node(path, group, node), budget)

    raw = {
        "name": f"{path.name}: {name}",
        "obs": read("observations"),
        "action": read("actions"),
        "reward": read("rewards"),
        "terminated": read("terminations"),
        "truncated": read("truncations"),
        "safety": None,
    }
    if "infos" in group and safety_key in _node(path, group, "infos"):
        cost = np.asarray(read(f"infos/{safety_key}"))
        if len(cost) == len(raw["reward"]) + 1:  # index 0 is the reset's
            cost = cost[1:]
        raw["safety"] = cost
    return raw


def _node(path: Path, group: Any, name: str) -> Any:
    """A child, refusing links that lead into other files."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or part not in group:
            raise DataError(f"{path.name}: {name}", expected="to be there", actual="absent")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise DataError(f"{path.name}: {name}", expected="data", actual="a link")
        group = group[part]
    return group


def _value(field: str, path: Path, node: Any, budget: list[int]) -> Any:
    """Arrays of a dataset; a group is a dict, or a tuple where its children are _index_i."""
    import h5py

    if isinstance(node, h5py.Group):
        names = list(node)
        values = {n: _value(f"{field}/{n}", path, _node(path, node, n), budget) for n in names}
        if names and all(re.fullmatch(r"_index_\d+", n) for n in names):
            return tuple(values[f"_index_{i}"] for i in range(len(names)))
        return values
    if node.external or node.is_virtual:
        raise DataError(field, expected="data in this file", actual="a reference to another")
    if node.dtype.kind not in "biuf":
        raise DataError(
            field,
            expected="numbers",
            actual=f"dtype {node.dtype}",
            hint="store images unencoded (jpeg_encoding=False).",
        )
    budget[0] -= node.size * node.dtype.itemsize
    if budget[0] < 0:
        raise DataError(
            field, expected=f"at most {MAX_EPISODE_BYTES} bytes an episode", actual=list(node.shape)
        )
    return node[()]
