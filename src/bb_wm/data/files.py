"""Episodes from files of others, and to files anyone can read.

`load_episodes(path)` takes a folder of .npz files (bb_wm.data.npz says what stands in them), one
such file, a Minari dataset (its folder or main_data.hdf5), or a .csv / .parquet table. What is read
is checked as strictly as what is collected; nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bb_wm.data import minari, npz
from bb_wm.data.arrays import check_reward_place, episode_from_arrays
from bb_wm.data.episodes import validate_episode
from bb_wm.data.recorder import explained
from bb_wm.data.rows import RewardPlace
from bb_wm.data.table import TableColumns, read_table
from bb_wm.durable import load_json, make_directory, write_file
from bb_wm.errors import BBWMError, ConfigError, DataError, PathError
from bb_wm.types import ActionSpec, Episode, ObsSpec

_MAX_CLASSES = 1024  # more different integers than this in one action column are no choices


@dataclass(frozen=True, slots=True)
class LoadedEpisodes:
    """Episodes of a log with the specs they were read by."""

    episodes: list[Episode]
    obs_spec: ObsSpec
    action_spec: ActionSpec

    def __len__(self) -> int:
        return len(self.episodes)

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]


def load_episodes(
    path: str | Path,
    *,
    obs_spec: Any = None,
    action_spec: Any = None,
    rewards: RewardPlace = "leaving",
    columns: TableColumns | None = None,
    safety_key: str = "cost",
) -> LoadedEpisodes:
    """Every episode at `path`, validated, in the order of the file names or of the file.

    obs_spec, action_spec: an ObsSpec / ActionSpec or what `.of` accepts. Without them: what the
        files say, else what the arrays look like (uint8 [T, H, W, C] an image, an action column
        of integers 0 .. n a choice, anything else a vector).
    rewards: "leaving" (default: the reward stands beside the action that caused it, as in most
        logs) or "arriving" (beside the observation it came with). .npz files that say it
        themselves and Minari datasets are read by their own rule.
    columns: what the columns of a table are called; default: obs.*, action.*, reward, ...
    safety_key: the key under infos/ that holds the risk, in a Minari dataset.

    Raises DataError naming file and field; MissingExtraError with the install line.
    """
    check_reward_place(rewards)
    path = Path(path)
    raws, told = _read(path, rewards, columns or TableColumns(), safety_key)
    wanted = (
        None if obs_spec is None else ObsSpec.of(obs_spec),
        None if action_spec is None else ActionSpec.of(action_spec),
    )
    seen = wanted[0] or told[0] or ObsSpec.of(_obs_shape(path, raws[0]["obs"]))
    done = wanted[1] or told[1] or ActionSpec.of(_action_space(path, [r["action"] for r in raws]))
    return LoadedEpisodes([_episode(raw, seen, done) for raw in raws], seen, done)


def save_episodes_npz(
    path: str | Path,
    episodes: Sequence[Episode],
    obs_spec: ObsSpec,
    action_spec: ActionSpec,
) -> Path:
    """Write a folder of episode-00000000.npz ..., one per episode; `load_episodes` gives them back.

    Everything is validated before the first file is written; every file is written atomically. A
    folder that already holds .npz files is refused (PathError): two logs must not mix.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.glob("*.npz"))):
        raise PathError("path", expected="a new or empty folder", actual=folder)
    checked = [validate_episode(episode, obs_spec, action_spec) for episode in episodes]
    make_directory(folder)
    specs = {"obs_spec": npz.spec_text(obs_spec), "action_spec": npz.spec_text(action_spec)}
    for number, episode in enumerate(checked):
        arrays: dict[str, Any] = {
            **({"obs": episode.obs["obs"]} if obs_spec.single else {}),
            **({} if obs_spec.single else {f"obs.{k}": v for k, v in episode.obs.items()}),
            "action": episode.action[:-1],
            "reward": episode.reward,
            "safety": episode.safety,
            "terminated": episode.terminated,
            "truncated": episode.truncated,
            "rewards": "arriving",
            **specs,
        }
        if episode.action_mask is not None:
            arrays["action_mask"] = episode.action_mask
        write_file(folder / f"episode-{number:08d}.npz", npz.npz_bytes(arrays))
    return folder


_Specs = tuple[ObsSpec | None, ActionSpec | None]


def _read(
    path: Path, rewards: RewardPlace, columns: TableColumns, safety_key: str
) -> tuple[list[dict[str, Any]], _Specs]:
    if not path.exists():
        raise DataError("path", expected="a file or folder that exists", actual=path)
    hdf5 = minari.minari_file(path) if path.is_dir() else path
    if hdf5 is not None and hdf5.suffix in (".hdf5", ".h5"):
        spaces = minari.read_spaces(hdf5)
        specs = (ObsSpec.of(spaces[0]), ActionSpec.of(spaces[1])) if spaces[0] else (None, None)
        raws = minari.read_minari(hdf5, safety_key)
        return [{**raw, "rewards": "leaving"} for raw in raws], specs
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise DataError(path.name, expected=".npz files or a Minari dataset", actual="neither")
        return _read_npz(files, rewards)
    if path.suffix == ".npz":
        return _read_npz([path], rewards)
    if path.suffix in (".csv", ".parquet"):
        raws = read_table(path, columns, rewards)
        return [{**raw, "rewards": rewards} for raw in raws], (None, None)
    raise DataError(
        path.name, expected=".npz, .hdf5, .csv or .parquet", actual=path.suffix or "none"
    )


def _read_npz(files: list[Path], rewards: RewardPlace) -> tuple[list[dict[str, Any]], _Specs]:
    raws, texts = [], set()
    for file in files:
        found = npz.read_npz(file)
        texts.add((found.pop("obs_spec", None), found.pop("action_spec", None)))
        obs = {key[4:]: found.pop(key) for key in list(found) if key.startswith("obs.")}
        if ("obs" in found) == bool(obs):
            raise DataError(file.name, expected="either obs or obs.KEY arrays", actual=list(found))
        for name in ("action", "reward", "terminated"):
            if name not in found:
                raise DataError(file.name, expected=f"an array {name!r}", actual=list(found))
        place = found.get("rewards", rewards)
        raws.append(
            {
                "name": file.name,
                "obs": found.get("obs", obs),
                "action": found["action"],
                "reward": found["reward"],
                "safety": found.get("safety", found.get("cost")),
                "terminated": found["terminated"],
                "truncated": found.get("truncated", np.False_),
                "action_mask": found.get("action_mask"),
                "rewards": place,
            }
        )
    if len(texts) != 1:
        raise DataError(files[0].parent.name, expected="one spec in all files", actual=len(texts))
    return raws, _told_specs(files[0], *texts.pop())


def _told_specs(file: Path, obs: str | None, action: str | None) -> _Specs:
    try:
        return (
            None if obs is None else ObsSpec.from_json(load_json(obs.encode(), error=DataError)),
            None
            if action is None
            else ActionSpec.from_json(load_json(action.encode(), error=DataError)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file.name}: obs_spec or action_spec", expected="a spec", actual=repr(error)
        ) from error


def _obs_shape(path: Path, obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: _obs_shape(path, value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return {str(index): _obs_shape(path, value) for index, value in enumerate(obs)}
    array = np.asarray(obs)
    if array.dtype == np.uint8 and array.ndim == 4:
        from gymnasium.spaces import Box

        return Box(0, 255, array.shape[1:], np.uint8)
    return tuple(array.shape[1:]) or (1,)


def _action_space(path: Path, actions: list[Any]) -> Any:
    if not all(isinstance(action, np.ndarray) for action in actions):
        raise ConfigError(
            "action_spec", expected="the space of these nested actions", actual="none", hint=""
        )
    if all(action.ndim == 1 for action in actions):
        values = np.concatenate(actions)
        whole = np.isfinite(values).all() and np.array_equal(values, np.round(values))
        if whole and values.size and values.min() >= 0 and values.max() < _MAX_CLASSES:
            from gymnasium.spaces import Discrete

            return Discrete(int(values.max()) + 1)
        return 1
    return int(np.prod(actions[0].shape[1:]))


def _episode(raw: dict[str, Any], obs_spec: ObsSpec, action_spec: ActionSpec) -> Episode:
    raw = dict(raw)
    name = raw.pop("name")
    action = raw["action"]
    if action_spec.form != "array" and isinstance(action, np.ndarray) and action.dtype.kind == "f":
        native = action.ndim == 1 or action.shape[-1] != action_spec.size
        if native and np.array_equal(action, np.round(action)):
            raw["action"] = action.astype(np.int64)  # a table's columns are floats
    try:
        return episode_from_arrays(obs_spec, action_spec, **raw)
    except BBWMError as error:
        better = explained(error, name)
        raise DataError(
            better.field, expected=error.expected, actual=error.actual, hint=error.hint
        ) from error
