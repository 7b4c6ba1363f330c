"""Where conversations are kept: one EpisodeStore that several proxies may add to.

The store's lock is held only while an episode is written, so every agent of a machine may record
into one folder. `bb-wm train FOLDER` reads it, `bb-wm check FOLDER` says whether it can be learnt.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bb_wm.data import EpisodeStore
from bb_wm.errors import LockError
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
