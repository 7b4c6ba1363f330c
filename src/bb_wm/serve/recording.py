"""Where conversations are kept: one EpisodeStore that several proxies may add to.

The store's lock is held only while an episode is written, so every agent of a machine may record
into one folder. `bb-wm train FOLDER` reads it, `bb-wm check FOLDER` says whether it can be learnt.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bb_wm.data import EpisodeStore
from bb_wm.errors import LockError
from bb_wm.serve.experience import experience_of
from bb_wm.serve.featurise import Featuriser
from bb_wm.types import Episode


class Recording:
    """A folder of recorded conversations; made on the first episode."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        featuriser: Featuriser | None = None,
        *,
        busy_seconds: float = 5.0,
    ) -> None:
        self.path = Path(path)
        self.featuriser = featuriser or Featuriser()
        self._busy = busy_seconds
        if (self.path / "store.json").exists():
            self.read().close()  # refused now, not after the first conversation

    def read(self) -> EpisodeStore:
        """The store, to read. Raises DataError where it is another featuriser's."""
        made = self.featuriser
        return EpisodeStore(self.path, made.obs_spec, made.action_spec, mode="r")

    def texts(self) -> set[bytes]:
        """The codes of all texts that were recorded; none before the first episode."""
        return experience_of(self._episodes())[2]

    def besides(self, known: Iterable[Episode]) -> list[Episode]:
        """What was recorded and is none of the `known` conversations."""
        seen = {_digest(episode) for episode in known}
        return [episode for episode in self._episodes() if _digest(episode) not in seen]

    def _episodes(self) -> Iterator[Episode]:
        if (self.path / "store.json").exists():
            with self.read() as store:
                yield from store

    def append(self, episode: Episode) -> None:
        """Keep an episode durably. Raises LockError, SaveError, DataError; then nothing is kept."""
        patience = time.monotonic() + self._busy
        made = self.featuriser
        while True:
            try:
                with EpisodeStore(self.path, made.obs_spec, made.action_spec, mode="a") as store:
                    store.append([episode])
                return
            except LockError:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.02)


def _digest(episode: Episode) -> bytes:
    """SHA-256 of what was seen and done."""
    digest = hashlib.sha256()
    for _, rows in sorted(episode.obs.items()):
        digest.update(rows.tobytes())
    digest.update(episode.action.tobytes())
    return digest.digest()
