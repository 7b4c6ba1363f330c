"""Run folders as the commands see them: made, opened, compared, and their model loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from bb_wm.cli.shell import RunConflictError
from bb_wm.errors import ConfigError
from bb_wm.learn.run import Run, is_run
from bb_wm.learn.settings import TrainSettings

if TYPE_CHECKING:
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

Which = Literal["newest", "best"]
Precision = Literal["highest", "high", "medium"]
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


def use_precision(precision: Precision) -> None:
    """Torch's own switch, which the model's products follow (`bb_wm.model.products`)."""
    import torch

    torch.set_float32_matmul_precision(precision)


def use_native(on: bool) -> None:
    """C++ for what stands between products (`bb_wm.model.native`), where it is asked for."""
    if on:
        from bb_wm.model.native import use_native as build

        build()


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


def load_model(run: Run, which: Which = "newest", *, device: str = "cpu") -> WorldModel:
    """The run's trained model from its newest checkpoint that is whole, or its best one.

    Warns where a newer one is damaged.
    """
    return run.load_model(best=which == "best", device=device)


def rows_of(run: Run, model: WorldModel, *, heldout: bool) -> Sequence[Episode]:
    """The episodes that the run keeps, of one part."""
    from bb_wm.data import EpisodeStore

    folder = run.heldout if heldout else run.episodes
    if not folder.exists():
        return ()
    store = EpisodeStore(folder, model.obs_spec, model.action_spec, mode="r")
    return [store[index] for index in range(len(store))]
