"""Run folders as the commands see them: made, opened, compared, and their model loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from bb_wm.cli.shell import RunConflictError
from bb_wm.errors import CheckpointError, ConfigError
from bb_wm.learn.run import Run, is_run
from bb_wm.learn.settings import TrainSettings

if TYPE_CHECKING:
    from bb_wm.cli.origins import Origin
    from bb_wm.config import WorldModelConfig
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

Which = Literal["newest", "best"]
RUNS: Final = Path("runs")


def check_count(flag: str, count: int, least: int = 1) -> None:
    """ConfigError with the flag's name unless `count` is at least `least`."""
    if count < least:
        raise ConfigError(flag, expected=f"{least} or more", actual=count)


def use_threads(count: int) -> None:
    """Bound PyTorch's threads; 0 leaves them."""
    check_count("--threads", count, least=0)
    if count:
        import torch

        torch.set_num_threads(count)


def free_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, -3, ... that is not taken."""
    folder, number = RUNS / name, 2
    while folder.exists():
        folder = RUNS / f"{name}-{number}"
        number += 1
    return folder


def create_run(
    folder: Path, *, world: Mapping[str, Any], config: Mapping[str, Any], settings: TrainSettings
) -> Run:
    """A new run folder; RunConflictError where something is already there."""
    if is_run(folder):
        raise RunConflictError(
            "--run",
            expected="a new folder",
            actual=f"{folder}, which holds a run",
            hint="add --resume to go on with it, or choose another name.",
        )
    try:
        return Run.create(folder, world=world, config=config, settings=settings)
    except ConfigError as error:
        raise _as_conflict(error) from error


def open_run(folder: str | Path) -> Run:
    """An existing run; RunConflictError where there is none."""
    try:
        return Run.open(folder)
    except ConfigError as error:
        raise _as_conflict(error) from error


def _as_conflict(error: ConfigError) -> RunConflictError:
    return RunConflictError(
        error.field, expected=error.expected, actual=error.actual, hint=error.hint
    )


def check_same(
    run: Run, *, world: Mapping[str, Any], config: Mapping[str, Any], settings: TrainSettings
) -> None:
    """RunConflictError unless the run was begun with this world, model and training."""
    for name, here, there in (("world", world, run.world), ("model", config, run.config)):
        found = _first_difference(name, here, there)
        if found is not None:
            field, mine, theirs = found
            raise RunConflictError(
                field,
                expected=f"{theirs!r}, as {run.folder} began",
                actual=repr(mine),
                hint="resume with the run's own settings, or begin a new run.",
            )
    try:
        settings.check_resumes(run.settings)
    except ConfigError as error:
        raise _as_conflict(error) from error


def _first_difference(
    name: str, here: Mapping[str, Any], there: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    for key in sorted({*here, *there}):
        mine, theirs = here.get(key), there.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            inner = _first_difference(f"{name}.{key}", mine, theirs)
            if inner is not None:
                return inner
        elif mine != theirs:
            return f"{name}.{key}", mine, theirs
    return None


def describe_model(origin: Origin, model: WorldModelConfig) -> dict[str, Any]:
    """What run.json keeps of the model: its settings and its spaces."""
    return {
        "settings": model.to_json(),
        "obs": origin.obs_spec.to_json(),
        "action": origin.action_spec.to_json(),
    }


def build_model(described: Mapping[str, Any], *, device: str = "cpu") -> WorldModel:
    """The model of `describe_model`, untrained."""
    from bb_wm.config import WorldModelConfig
    from bb_wm.rssm import WorldModel
    from bb_wm.types import ActionSpec, ObsSpec

    try:
        obs = ObsSpec.from_json(described["obs"])
        action = ActionSpec.from_json(described["action"])
        config = WorldModelConfig.from_json(described["settings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "run.json", expected="the model's settings and spaces", actual=repr(error)
        ) from error
    return WorldModel(obs, action, config, device=device)


def load_model(run: Run, which: Which = "newest", *, device: str = "cpu") -> WorldModel:
    """The run's trained model from its newest checkpoint that is whole, or its best one.

    Warns where a newer one is damaged.
    """
    from bb_wm.learn.checkpoint import load_best, load_checkpoint

    model = build_model(run.config, device=device)
    found = load_best(run.checkpoints) if which == "best" else load_checkpoint(run.checkpoints)
    for problem in found.problems:
        warnings.warn(f"{problem} Going back to update {found.step}.", stacklevel=2)
    prefix = "model:"
    model.load_state_tensors(
        {
            name.removeprefix(prefix): tensor
            for name, tensor in found.tensors.items()
            if name.startswith(prefix)
        }
    )
    return model


def rows_of(run: Run, model: WorldModel, *, heldout: bool) -> Sequence[Episode]:
    """The episodes that the run keeps, of one part."""
    from bb_wm.data import EpisodeStore

    folder = run.heldout if heldout else run.episodes
    if not folder.exists():
        return ()
    store = EpisodeStore(folder, model.obs_spec, model.action_spec, mode="r")
    return [store[index] for index in range(len(store))]
