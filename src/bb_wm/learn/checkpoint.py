"""Checkpoints that are believed only when every byte is as it was written.

    checkpoints/step-000001500/model.safetensors   all tensors, bits as they were
    checkpoints/step-000001500/manifest.json       sizes, SHA-256, the step, what resume needs
    checkpoints/best/                              a copy, with the smallest held-out error

Directories appear whole or not at all, are ordered by step number (never by time), and a damaged
one gives way to the one before it, with an error that says what was wrong.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bb_wm import durable
from bb_wm.durable.tensors import decode_tensors, encode_tensors
from bb_wm.errors import CheckpointError, ConfigError, SaveError, VersionError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT: Final = 1
MAX_BYTES: Final = 8 << 30
TENSORS: Final = "model.safetensors"
BEST: Final = "best"
_STEP: Final = re.compile(r"step-(\d{9,18})")
_PREVIOUS: Final = re.compile(r"\.(step-\d{9,18})\.previous")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved at `step`. `problems` says which newer checkpoints could not be believed."""

    step: int
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    path: Path
    problems: tuple[CheckpointError, ...] = ()

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as "name:...", without that; several owners share one file."""
        mark = f"{name}:"
        found = self.tensors.items()
        return {key.removeprefix(mark): t for key, t in found if key.startswith(mark)}


def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    keep: int = 3,
) -> Path:
    """Writes one checkpoint durably, then forgets all but the newest `keep`; its path.

    Raises SaveError on a NaN or Inf, a full disk, or a step before one already there; in every case
    the checkpoints that were there are intact.
    """
    if type(step) is not int or not 0 <= step < 10**18:
        raise ConfigError("step", expected="an int from 0 on", actual=repr(step))
    if type(keep) is not int or keep < 1:
        raise ConfigError("keep", expected="an int from 1 on", actual=repr(keep))
    folder = Path(directory)
    newest = max(list_steps(folder), default=-1)
    if step < newest:
        raise SaveError(
            "step",
            expected=f"at least {newest}, the newest checkpoint in {folder}",
            actual=step,
            hint="order is by step: an older one would never be read.",
        )
    path = folder / f"step-{step:09d}"
    _write(path, step, tensors, meta)
    _forget(folder, keep)
    return path


def save_best(
    directory: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> Path:
    """Replaces `best/` in `directory` durably; the old best stays readable until then."""
    path = Path(directory) / BEST
    _write(path, step, tensors, meta)
    return path


def load_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
    """The newest checkpoint in `directory` that is whole, with the problems of newer ones.

    Raises CheckpointError when there is none; its hint says what was wrong with the newest.
    """
    folder = Path(directory)
    problems: list[CheckpointError] = []
    for step in sorted(list_steps(folder), reverse=True):
        try:
            found = read_checkpoint(folder / f"step-{step:09d}")
            return replace(found, problems=tuple(problems))
        except VersionError:
            raise  # going back in time would silently lose what a newer version learnt
        except CheckpointError as error:
            problems.append(error)
    raise CheckpointError(
        "checkpoints",
        expected=f"a whole checkpoint in {folder}",
        actual=f"{len(problems)} damaged" if problems else "none",
        hint=str(problems[0]) if problems else "",
    )


def load_best(directory: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint with the smallest held-out error. CheckpointError when absent or damaged."""
    return read_checkpoint(Path(directory) / BEST)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """One checkpoint directory, verified. Raises CheckpointError saying what is wrong with it."""
    place = Path(path)
    if place.is_symlink():
        raise CheckpointError("path", expected="a directory, no link", actual=place)
    manifest, files = durable.read_files(place, max_bytes=MAX_BYTES)
    meta = manifest.meta
    if meta.get("kind") != "checkpoint" or set(files) != {TENSORS}:
        raise CheckpointError(
            "manifest", expected=f"a checkpoint with {TENSORS}", actual=sorted(files)
        )
    if meta.get("format") != FORMAT:
        raise VersionError(
            "format of the checkpoint",
            expected=FORMAT,
            actual=meta.get("format", "none"),
            hint="another version of bb_wm wrote it; train again, or use that version.",
        )
    step, named = meta.get("step"), _STEP.fullmatch(place.name)
    if type(step) is not int or (named and int(named[1]) != step):
        raise CheckpointError("step", expected=f"the step of {place.name}", actual=step)
    tensors = decode_tensors(files[TENSORS], source=f"{place.name}/{TENSORS}")
    return Checkpoint(step, tensors, dict(meta["meta"]), place)


def list_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps in `directory`, ascending, whole or not."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    steps = set()
    for name in names:
        previous = _PREVIOUS.fullmatch(name)  # a crash between the two renames of a rewrite
        match = _STEP.fullmatch(previous[1] if previous else name)
        if match and name.strip(".").removesuffix(".previous") == f"step-{int(match[1]):09d}":
            steps.add(int(match[1]))
    return sorted(steps)


def set_aside(directory: str | os.PathLike[str], newest: int) -> list[Path]:
    """Renames checkpoints beyond step `newest`, which could not be believed, to `damaged-...`."""
    folder, moved = Path(directory), []
    for step in list_steps(folder):
        if step > newest:
            aside = folder / f"damaged-step-{step:09d}"
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rename(folder / f"step-{step:09d}", aside)
                moved.append(aside)
            shutil.rmtree(folder / f".step-{step:09d}.previous", ignore_errors=True)
    return moved


def finite_or_none(value: float | None) -> float | None:
    """The number when JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None


def _write(path: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    head = {"kind": "checkpoint", "format": FORMAT, "step": step, "meta": dict(meta)}
    durable.write_files(path, {TENSORS: encode_tensors(tensors)}, head)


def _forget(folder: Path, keep: int) -> None:
    """Removal in two moves, so that a half-removed directory never bears a checkpoint's name."""
    for step in list_steps(folder)[:-keep]:
        with contextlib.suppress(OSError):
            os.rename(folder / f"step-{step:09d}", folder / f".trash-{step:09d}")
        shutil.rmtree(folder / f".step-{step:09d}.previous", ignore_errors=True)
    for name in os.listdir(folder):
        if name.startswith(".trash-"):
            shutil.rmtree(folder / name, ignore_errors=True)
