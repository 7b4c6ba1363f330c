"""metrics.jsonl: one line per look at the training, the same in every run of the same seed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from bb_wm import durable
from bb_wm.errors import DataError, SaveError
from bb_wm.learn.callbacks import Record


class MetricsLog:
    """Appends lines; lines that a full disk refuses are kept and written later."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._waiting: list[bytes] = []
        self.count = len(_whole_lines(self._read()))

    def append(self, record: Record) -> None:
        """Raises SaveError when the line could not be written; it is then still waiting."""
        numbers = record.to_json()
        kept = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in numbers.items()
        }
        self._waiting.append(json.dumps(kept, allow_nan=False).encode("ascii") + b"\n")
        self.count += 1
        self.write_waiting()

    def write_waiting(self, *, sync: bool = False) -> None:
        """Write what waits; with `sync`, durably. A half-written line is taken back."""
        if not self._waiting and not sync:
            return
        try:
            descriptor = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
            try:
                size = os.fstat(descriptor).st_size
                while self._waiting:
                    line = self._waiting[0]
                    if os.write(descriptor, line) != len(line):
                        os.ftruncate(descriptor, size)
                        raise OSError(28, "No space left on device")
                    size += len(line)
                    self._waiting.pop(0)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as cause:
            raise durable.save_error(self.path, cause) from cause

    def cut(self, count: int) -> int:
        """Keep the first `count` whole lines, as a checkpoint knew them; how many were missing."""
        lines = _whole_lines(self._read())
        kept = lines[:count]
        durable.write_file(self.path, b"".join(kept))
        self._waiting.clear()
        self.count = len(kept)
        return count - len(kept)

    def _read(self) -> bytes:
        if not self.path.exists():
            return b""
        return durable.read_file(self.path, error=DataError, field="metrics.jsonl")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All whole lines; a torn last line is left out. Raises DataError on one that is not JSON."""
    raw = durable.read_file(path, error=DataError, field="metrics.jsonl")
    return [
        durable.load_json(line, error=DataError, field=f"metrics.jsonl line {number}")
        for number, line in enumerate(_whole_lines(raw), start=1)
    ]


def _whole_lines(raw: bytes) -> list[bytes]:
    return [line for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]


class EventLog:
    """events.jsonl: what happened and when, for people; never read by training."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, time: str, note: str) -> None:
        """Adds a line; a full disk is no reason to stop telling the others."""
        line = json.dumps({"time": time, "note": note}).encode("ascii") + b"\n"
        with contextlib.suppress(OSError), open(self.path, "ab") as stream:
            stream.write(line)


def check_written(log: MetricsLog) -> SaveError | None:
    """Write durably what waits; the error when that failed."""
    try:
        log.write_waiting(sync=True)
    except SaveError as error:
        return error
    return None
