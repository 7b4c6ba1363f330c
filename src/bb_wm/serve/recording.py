"""Where conversations are kept: one EpisodeStore that several proxies may add to.

The store's lock is held only while an episode is written, so every agent of a machine may record
into one folder. `bb-wm train FOLDER` reads it, `bb-wm check FOLDER` says whether it can be learnt.
Beside the store lies tools.json: names of tools by their code, for people to read; no row and no
decision depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from bb_wm import durable
from bb_wm.data import EpisodeStore
from bb_wm.errors import DataError, LockError, SaveError
from bb_wm.serve.calls import printable
from bb_wm.serve.experience import Experience
from bb_wm.serve.featurise import Featuriser
from bb_wm.types import Episode

_NAMES: Final = "tools.json"
_MAX_NAMES: Final = 4096


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

    def experience(self) -> Experience:
        """What was recorded so far, counted."""
        return Experience.of(self._episodes())

    def names(self) -> dict[bytes, str]:
        """Names of tools by their code; see `names_in`."""
        return self.names_in(self.path)

    @staticmethod
    def names_in(path: str | os.PathLike[str]) -> dict[bytes, str]:
        """What a recording's folder keeps of names, as printable ASCII; a damaged file has none."""
        try:
            read = json.loads(
                durable.read_file(Path(path) / _NAMES, error=DataError, max_bytes=1 << 20)
            )
            return {bytes.fromhex(code): printable(name) for code, name in read.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}

    def besides(self, known: Iterable[Episode]) -> list[Episode]:
        """What was recorded and is none of the `known` conversations."""
        seen = {_digest(episode) for episode in known}
        return [episode for episode in self._episodes() if _digest(episode) not in seen]

    def _episodes(self) -> Iterator[Episode]:
        if (self.path / "store.json").exists():
            with self.read() as store:
                yield from store

    def append(self, episode: Episode, names: Mapping[bytes, str] | None = None) -> None:
        """Keep an episode durably, and the names of its tools where that can be done.

        Raises LockError, SaveError, DataError; then nothing is kept.
        """
        patience = time.monotonic() + self._busy
        made = self.featuriser
        while True:
            try:
                with EpisodeStore(self.path, made.obs_spec, made.action_spec, mode="a") as store:
                    store.append([episode])
                    self._name(names or {})
                return
            except LockError:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.02)

    def _name(self, names: Mapping[bytes, str]) -> None:
        known = self.names()
        if len(known) < _MAX_NAMES and not names.keys() <= known.keys():
            text = json.dumps({code.hex(): name for code, name in (known | dict(names)).items()})
            with suppress(SaveError):  # a name is worth less than the episode
                durable.write_file(self.path / _NAMES, text.encode())


def _digest(episode: Episode) -> bytes:
    """SHA-256 of what was seen and done."""
    digest = hashlib.sha256()
    for _, rows in sorted(episode.obs.items()):
        digest.update(rows.tobytes())
    digest.update(episode.action.tobytes())
    return digest.digest()
