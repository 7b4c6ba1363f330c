"""Where a run's rows come from: a world acted in, or episodes recorded earlier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.learn.sources import EpisodeSource
    from bb_wm.types import ActionSpec, ObsSpec


@dataclass(frozen=True, slots=True)
class Origin:
    """Rows to be had, and their spaces. `record` says it in run.json: `resume` finds it again."""

    name: str
    record: Mapping[str, Any]
    obs_spec: ObsSpec
    action_spec: ActionSpec
    source: EpisodeSource


def find_origin(word: str, *, seed: int, workers: int = 1) -> Origin:
    """A path to recorded episodes where there is one of that name, else a world."""
    if Path(word).exists():
        return _recorded(Path(word), seed)
    return _world(word, seed, workers)


def recall_origin(record: Mapping[str, Any], *, seed: int, workers: int = 1) -> Origin:
    """The origin that a run's `record` speaks of. Raises DataError when it is there no more."""
    if "recorded" in record:
        return _recorded(Path(str(record["recorded"])), seed)
    return _world(str(record.get("name", "")), seed, workers)


def folder_name(name: str) -> str:
    """`name` as a harmless name of a folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:48]
    return plain or "run"


def _world(name: str, seed: int, workers: int) -> Origin:
    from bb_wm.learn.sources import WorldSource
    from bb_wm.types import ActionSpec, ObsSpec
    from bb_wm.worlds.catalogue import make_world

    maker, world = make_world(name)
    env = maker()
    try:
        obs_spec, action_spec = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    finally:
        env.close()
    source = WorldSource(maker, seed=seed, risk=world.risk, workers=workers)
    record = {"name": name, "environment": world.env_id, "risk": world.risk_description}
    return Origin(folder_name(name), record, obs_spec, action_spec, source)


def _recorded(path: Path, seed: int) -> Origin:
    from bb_wm.data import load_episodes
    from bb_wm.learn.sources import RecordedSource

    if not path.exists():
        raise DataError("recorded episodes", expected="a file or folder", actual=path)
    loaded = load_episodes(path)
    source = RecordedSource.split(loaded.episodes, seed=seed)
    record = {"recorded": str(path.resolve())}
    return Origin(folder_name(path.stem), record, loaded.obs_spec, loaded.action_spec, source)
