"""Where a run's rows come from: a world acted in, or episodes recorded earlier."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bb_wm.data.table import TableColumns
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.learn.sources import EpisodeSource
    from bb_wm.types import ActionSpec, Episode, ObsSpec


@dataclass(frozen=True, slots=True)
class Reading:
    """How recorded episodes are read; a world needs none of it."""

    rewards: Literal["leaving", "arriving"] = "leaving"
    """The reward stands beside the action that caused it, or beside the row it came with."""
    safety_key: str = "cost"
    """The key under infos/ that holds the risk, in a Minari dataset."""
    columns: TableColumns = field(default_factory=TableColumns)

    def to_json(self) -> dict[str, Any]:
        """What differs from the default, so that most runs keep nothing of it."""
        plain = asdict(Reading())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reading:
        """The inverse of `to_json`. Raises DataError on what is no reading."""
        try:
            columns = dict(data.get("columns", {}))
            for name in ("obs", "action", "next_obs"):
                if isinstance(columns.get(name), list):
                    columns[name] = tuple(columns[name])
            rest = {name: value for name, value in data.items() if name != "columns"}
            return cls(**rest, columns=TableColumns(**columns))
        except TypeError as error:
            names = [entry.name for entry in fields(cls)]
            raise DataError("reading", expected=f"{names}", actual=str(dict(data))) from error


@dataclass(frozen=True, slots=True)
class Origin:
    """Rows to be had, and their spaces. `record` says it in run.json: `resume` finds it again.

    `masked`: its rows say which actions are available.
    """

    name: str
    record: Mapping[str, Any]
    obs_spec: ObsSpec
    action_spec: ActionSpec
    source: EpisodeSource
    recorded: Sequence[Episode] | None = None
    masked: bool = False

    def read(self, rows: int) -> Sequence[Episode]:
        """Everything recorded, or about `rows` freshly collected rows."""
        if self.recorded is not None:
            return self.recorded
        return list(self.source.episodes(heldout=False, first=0, rows=rows))


def find_origin(
    word: str, *, seed: int, workers: int = 1, reading: Reading | None = None
) -> Origin:
    """A path to recorded episodes where there is one of that name, else a world."""
    if "\0" not in word and Path(word).exists():
        return _recorded(Path(word), seed, reading or Reading())
    return _world(word, seed, workers)


def recall_origin(record: Mapping[str, Any], *, seed: int, workers: int = 1) -> Origin:
    """The origin that a run's `record` speaks of. Raises DataError when it is there no more."""
    if "recorded" in record:
        reading = Reading.from_json(record.get("reading", {}))
        return _recorded(Path(str(record["recorded"])), seed, reading)
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
        masked = "action_mask" in env.reset(seed=0)[1]
    finally:
        env.close()
    source = WorldSource(maker, seed=seed, risk=world.risk, workers=workers)
    record: dict[str, Any] = {
        "name": name,
        "environment": world.env_id,
        "risk": world.risk_description,
    }
    return Origin(folder_name(name), record, obs_spec, action_spec, source, masked=masked)


def _recorded(path: Path, seed: int, reading: Reading) -> Origin:
    from bb_wm.learn.sources import RecordedSource

    if not path.exists():
        raise DataError("recorded episodes", expected="a file or folder", actual=path)
    episodes, obs_spec, action_spec = _read(path, reading)
    source = (
        RecordedSource.split(episodes, seed=seed) if len(episodes) > 1 else RecordedSource(episodes)
    )
    record: dict[str, Any] = {"recorded": str(path.resolve())}
    if reading.to_json():
        record["reading"] = reading.to_json()
    masked = all(episode.action_mask is not None for episode in episodes)
    name = folder_name(path.stem)
    return Origin(name, record, obs_spec, action_spec, source, episodes, masked)


def _read(path: Path, reading: Reading) -> tuple[Sequence[Episode], ObsSpec, ActionSpec]:
    """A run's own rows, or a log of others."""
    from bb_wm.data import EpisodeStore, load_episodes

    store = path / "episodes" if (path / "run.json").is_file() else path
    if (store / "store.json").is_file():
        with EpisodeStore(store, mode="r") as kept:
            episodes = [kept[index] for index in range(len(kept))]
            return episodes, kept.obs_spec, kept.action_spec
    loaded = load_episodes(
        path, rewards=reading.rewards, safety_key=reading.safety_key, columns=reading.columns
    )
    return loaded.episodes, loaded.obs_spec, loaded.action_spec
