"""The run folder: everything one training run has read, learnt and said, for a person to open.

runs/<name>/run.json           what was trained, on what, with which seed and versions
            README.md          the same in words, and where the rest is
            episodes/          the rows learnt from, one file per episode
            episodes-heldout/  rows only ever judged on
            checkpoints/       step-000001500/ ..., best/
            metrics.jsonl      one line per look, the same in every run of this seed
            events.jsonl       what happened and when
            tensorboard/       curves
            evaluation.json, report.json, page.html,
            trust.json, outlook.json                              written by an evaluation
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bb_wm import durable
from bb_wm.errors import ConfigError, DataError, VersionError
from bb_wm.learn.settings import TrainSettings

if TYPE_CHECKING:
    from bb_wm.rssm import WorldModel

FORMAT: Final = 1
_INFO: Final = "run.json"
_PACKAGES: Final = ("torch", "numpy", "gymnasium", "mujoco", "safetensors")


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder. `world` says what was trained on, in words of the caller's own; `config` what
    the model is, best `WorldModel.describe()`; `settings` are the training's as the run began."""

    folder: Path
    world: Mapping[str, Any]
    config: Mapping[str, Any]
    settings: TrainSettings
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        world: Mapping[str, Any],
        config: Mapping[str, Any],
        settings: TrainSettings,
    ) -> Run:
        """A new run folder, whole or not at all. Raises ConfigError when the place is taken,
        PathError on a name that is none, SaveError on a full disk."""
        place = Path(os.path.abspath(folder))
        durable.check_name(place.name, "run")
        if place.is_symlink() or (place.exists() and not _is_empty_directory(place)):
            raise ConfigError(
                "run",
                expected="a new folder",
                actual=f"{place}, which {'holds a run' if is_run(place) else 'holds other things'}",
                hint="resume it, or choose another name; nothing is overwritten.",
            )
        run = cls(place, dict(world), dict(config), settings, _now(), _versions())
        run._lay_out()
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """An existing run folder. Raises ConfigError when there is none, DataError when run.json is
        damaged, VersionError when a newer bb_wm wrote it."""
        place = Path(os.path.abspath(folder))
        if not is_run(place):
            raise ConfigError(
                "run",
                expected=f"a run folder with {_INFO}",
                actual=f"{place}, which {'has none' if place.exists() else 'does not exist'}",
                hint="`bb-wm train WORLD` makes one, below runs/.",
            )
        raw = durable.read_file(place / _INFO, error=DataError, field=_INFO, max_bytes=1 << 20)
        data = durable.load_json(raw, error=DataError, field=_INFO)
        if not isinstance(data, dict) or data.get("kind") != "bb_wm run":
            raise DataError(_INFO, expected="a bb_wm run", actual=str(data)[:60])
        if data.get("format") != FORMAT:
            raise VersionError(
                f"format of {_INFO}",
                expected=FORMAT,
                actual=data.get("format", "none"),
                hint="another version of bb_wm wrote it; its episodes can be trained on again.",
            )
        try:
            settings = TrainSettings.from_json(data["settings"])
            return cls(
                place,
                dict(data["world"]),
                dict(data["config"]),
                settings,
                str(data["created"]),
                {str(name): str(version) for name, version in data["versions"].items()},
            )
        except (KeyError, TypeError, AttributeError) as cause:
            raise DataError(_INFO, expected="all its fields", actual=repr(cause)) from cause

    def build_model(self, *, device: str = "cpu") -> WorldModel:
        """A fresh model as the run's began, where `config` is its `describe()`; training or
        `load_model` brings what was learnt."""
        from bb_wm.rssm import WorldModel

        return WorldModel.build(self.config, device=device)

    def load_model(self, *, best: bool = False, device: str = "cpu") -> WorldModel:
        """The newest model of the run, or the one with the smallest held-out error. Raises
        CheckpointError when there is none that is whole; warns where a newer one is damaged."""
        from bb_wm.learn.checkpoint import load_best, load_checkpoint

        found = load_best(self.checkpoints) if best else load_checkpoint(self.checkpoints)
        for problem in found.problems:
            warnings.warn(f"{problem} Going back to update {found.step}.", stacklevel=2)
        model = self.build_model(device=device)
        model.load_state_tensors(found.part("model"))
        return model

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def episodes(self) -> Path:
        return self.folder / "episodes"

    @property
    def heldout(self) -> Path:
        return self.folder / "episodes-heldout"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def trust(self) -> Path:
        return self.folder / "trust.json"

    @property
    def outlook(self) -> Path:
        return self.folder / "outlook.json"

    @property
    def page(self) -> Path:
        return self.folder / "page.html"

    def lock(self) -> durable.RunLock:
        """The right to write here. Raises LockError at once when another process has it."""
        return durable.RunLock(self.folder)

    def write_evaluation(self, numbers: Mapping[str, Any]) -> Path:
        """evaluation.json, replaced whole. Raises SaveError on what JSON cannot hold."""
        durable.write_file(self.evaluation, durable.dump_json(dict(numbers), "evaluation"))
        return self.evaluation

    def read_evaluation(self) -> dict[str, Any]:
        """What `write_evaluation` wrote. Raises DataError when absent or damaged."""
        raw = durable.read_file(self.evaluation, error=DataError, field="evaluation.json")
        return dict(durable.load_json(raw, error=DataError, field="evaluation.json"))

    def _lay_out(self) -> None:
        """Made beside the place and renamed into it, so that no half folder is ever seen."""
        durable.make_directory(self.folder.parent)
        beside = self.folder.parent / f".new-{os.getpid()}-{self.folder.name}"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            durable.make_directory(beside / "checkpoints")
            durable.write_file(beside / _INFO, durable.dump_json(self._to_json(), "run"))
            durable.write_file(beside / "README.md", _in_words(self).encode("utf-8"))
            os.rename(beside, self.folder)
            durable.sync_directory(self.folder.parent)
        except OSError as cause:
            shutil.rmtree(beside, ignore_errors=True)
            if is_run(self.folder):
                raise ConfigError("run", expected="a new folder", actual=self.folder) from cause
            raise durable.save_error(self.folder, cause) from cause
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _to_json(self) -> dict[str, Any]:
        return {
            "kind": "bb_wm run",
            "format": FORMAT,
            "name": self.name,
            "created": self.created,
            "world": dict(self.world),
            "seed": self.settings.seed,
            "settings": self.settings.to_json(),
            "config": dict(self.config),
            "versions": dict(self.versions),
        }


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a run."""
    return (Path(folder) / _INFO).is_file()


def _is_empty_directory(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    from bb_wm import __version__

    found = {"bb_wm": __version__, "python": platform.python_version(), "system": sys.platform}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _in_words(run: Run) -> str:
    settings = run.settings
    world = ", ".join(f"{key} {value}" for key, value in run.world.items())
    return f"""# {run.name}

A bb_wm training run, begun {run.created} (UTC).

- World: {world}
- Plan: {settings.updates} updates of {settings.batch_size} sequences of {settings.length} rows,
  on {settings.rows} collected rows; {settings.heldout_rows} more are held out. Seed
  {settings.seed}.

| here | is |
|---|---|
| `run.json` | all of the above as data: world, settings, the model's configuration, versions |
| `episodes/` | the rows learnt from, one file per episode, with SHA-256 |
| `episodes-heldout/` | rows the model never learns from; it is judged on them |
| `checkpoints/` | `step-...`: the newest of the model, `best/`: the smallest held-out error |
| `metrics.jsonl` | losses and errors by update; the same in every run of this seed |
| `events.jsonl` | what happened and when: starts, interruptions, damage found |
| `tensorboard/` | curves: `tensorboard --logdir .` |
| `evaluation.json`, `page.html` | the last evaluation, as data and as a page |
| `trust.json` | how far the model may be imagined: `TrustedHorizon.load` |
| `outlook.json` | what will be seen, as wide as the model is wrong: `Outlook.load` |

Interrupted or killed, it goes on from its last checkpoint: `bb-wm resume` with this folder.
"""
