"""The record of promotions: one sealed file per verdict, each holding the digest of the one before.

promotions/000001.json ...   verdict, numbers, settings and SHA-256 of both models and the data
           head.json         how many there are, and the digest of the last

A changed, removed or reordered entry does not fit its neighbours, a removed tail does not fit the
head. Whoever may rewrite the whole folder may rewrite the chain too: print the digest of the head
(every append gives it) where they cannot, in a CI log or a commit.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bb_wm import durable
from bb_wm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bb_wm.diagnose.promotion.result import Promotion
    from bb_wm.types import Episode

FORMAT: Final = 1
_HEAD: Final = "head.json"
_NOTHING: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded verdict: its number from 1 on, its digest, and what it says."""

    number: int
    digest: str
    body: Mapping[str, Any]


class PromotionLog:
    """An append-only folder of verdicts; made by the first `append`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.abspath(folder))

    def append(
        self,
        promotion: Promotion,
        *,
        new: Mapping[str, str],
        old: Mapping[str, str],
        data: Mapping[str, str],
    ) -> Entry:
        """Writes the verdict durably; never over an older one.

        `new`, `old` and `data` name what was judged and hold its `digest` (SHA-256). The whole
        chain is read first. Raises ConfigError without a digest, DataError where the chain is
        damaged, LockError while another process writes, SaveError where nothing was written.
        """
        for field, named in (("new", new), ("old", old), ("data", data)):
            if len(named.get("digest", "")) != 64:
                raise ConfigError(
                    f"{field}['digest']", expected="a SHA-256", actual=named.get("digest")
                )
        durable.make_directory(self.folder)
        with durable.RunLock(self.folder):
            before = self.entries()
            number = len(before) + 1
            body = {
                "kind": "bb_wm promotion",
                "format": FORMAT,
                "number": number,
                "previous": before[-1].digest if before else _NOTHING,
                "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "new": dict(new),
                "old": dict(old),
                "data": dict(data),
                **promotion.to_json(),
            }
            raw = durable.seal_json(body, "promotion")
            durable.write_file(self._path(number), raw)
            entry = Entry(number, hashlib.sha256(raw).hexdigest(), body)
            self._write_head(entry)
        return entry

    def entries(self) -> list[Entry]:
        """Every verdict, oldest first, after the whole chain was checked.

        Raises DataError naming the entry that was changed, lost or put in another place.
        """
        count, last = self._read_head()
        found: list[Entry] = []
        while self._path(len(found) + 1).exists():
            found.append(self._read(len(found) + 1, found[-1].digest if found else _NOTHING))
        # A crash between entry and head leaves one entry more than the head knows of.
        if len(found) not in (count, count + 1):
            raise self._damaged(f"{count} entries", f"{len(found)}, then none")
        if count and found[count - 1].digest != last:
            raise self._damaged(f"entry {count} as the head knows it", "another one")
        stray = [p.name for p in self.folder.glob("[0-9]*.json") if p not in self._paths(found)]
        if stray:
            raise self._damaged("entries without a gap", f"{sorted(stray)[0]} after a gap")
        return found

    def _paths(self, found: Iterable[Entry]) -> set[Path]:
        return {self._path(entry.number) for entry in found}

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _read(self, number: int, previous: str) -> Entry:
        field = f"promotion {number}"
        raw = durable.read_file(
            self._path(number), error=DataError, field=field, max_bytes=durable.MAX_JSON_BYTES
        )
        body = durable.unseal_json(raw, error=DataError, field=field)
        if body.get("kind") != "bb_wm promotion" or body.get("format") != FORMAT:
            raise DataError(field, expected="a bb_wm promotion", actual=body.get("kind"))
        if body.get("number") != number or body.get("previous") != previous:
            raise DataError(
                field,
                expected=f"number {number} after {previous[:12]}",
                actual=f"number {body.get('number')} after {str(body.get('previous'))[:12]}",
                hint="an entry was changed, removed or moved; restore the folder from a copy.",
            )
        return Entry(number, hashlib.sha256(raw).hexdigest(), body)

    def _write_head(self, entry: Entry) -> None:
        head = {"count": entry.number, "last": entry.digest}
        durable.write_file(self.folder / _HEAD, durable.seal_json(head, "head"))

    def _read_head(self) -> tuple[int, str]:
        if not (self.folder / _HEAD).exists():
            return 0, _NOTHING
        raw = durable.read_file(
            self.folder / _HEAD, error=DataError, field="head", max_bytes=1 << 12
        )
        head = durable.unseal_json(raw, error=DataError, field="head")
        count, last = head.get("count"), head.get("last")
        if not isinstance(count, int) or not isinstance(last, str):
            raise self._damaged("a head with count and last", sorted(head))
        return count, last

    def _damaged(self, expected: object, actual: object) -> DataError:
        return DataError(
            "promotions",
            expected=expected,
            actual=actual,
            hint=f"restore {self.folder} from a copy; nothing is appended to a broken chain.",
        )


def digest_model(model: Any) -> str:
    """SHA-256 over what a model is and every tensor of its state.

    For anything with WorldModel's `describe` and `state_tensors`. Raises ConfigError otherwise:
    then whoever made the model must say what identifies it.
    """
    if not (hasattr(model, "describe") and hasattr(model, "state_tensors")):
        raise ConfigError(
            "model", expected="describe() and state_tensors()", actual=type(model).__name__
        )
    from bb_wm.durable.tensors import encode_tensors

    digest = hashlib.sha256(durable.dump_json(model.describe(), "model"))
    digest.update(encode_tensors(model.state_tensors()))
    return digest.hexdigest()


def digest_episode(episode: Episode) -> str:
    """SHA-256 over every array of an episode, with name, type and shape, and over how it ended."""
    digest = hashlib.sha256(json.dumps([episode.terminated, episode.truncated]).encode())
    arrays = {f"obs/{key}": value for key, value in episode.obs.items()}
    arrays |= {name: getattr(episode, name) for name in ("action", "reward", "safety")}
    if episode.action_mask is not None:
        arrays["action_mask"] = episode.action_mask
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def digest_episodes(episodes: Iterable[Episode]) -> str:
    """SHA-256 over the digests of episodes, in their order."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(bytes.fromhex(digest_episode(episode)))
    return digest.hexdigest()
