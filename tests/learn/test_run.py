"""Run folders: whole or not at all, never overwritten, readable by a person."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bb_wm import WorldModel, WorldModelConfig
from bb_wm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LockError,
    PathError,
    SaveError,
    VersionError,
)
from bb_wm.learn import Run, TrainSettings, is_run
from bb_wm.learn.checkpoint import save_best, save_checkpoint

WORLD = {"id": "Line", "version": 2}
CONFIG = WorldModelConfig(hidden=8, layers=1, head_hidden=8, features=8, seed=5)


def create(folder: Path) -> Run:
    model = WorldModel(3, 2, CONFIG)
    return Run.create(folder, world=WORLD, config=model.describe(), settings=TrainSettings(seed=7))


def test_opened_is_what_was_created(tmp_path: Path) -> None:
    made = create(tmp_path / "deep" / "er" / "first")
    assert Run.open(made.folder) == made
    assert made.name == "first"
    assert is_run(made.folder)
    assert made.settings.seed == 7
    assert {"bb_wm", "python", "torch", "numpy"} <= set(made.versions)


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    run = create(tmp_path / "first")
    words = (run.folder / "README.md").read_text()
    assert "Line" in words
    for part in ("run.json", "episodes/", "checkpoints/", "metrics.jsonl", "evaluation.json"):
        assert part in words
    data = json.loads((run.folder / "run.json").read_text())
    assert data["world"] == WORLD
    assert data["seed"] == 7
    assert data["config"]["config"]["seed"] == 5
    assert sorted(os.listdir(tmp_path)) == ["first"]


@pytest.mark.parametrize("taken", ["run", "file", "other folder", "link"])
def test_a_taken_place_is_left_alone(tmp_path: Path, taken: str) -> None:
    place = tmp_path / "first"
    if taken == "run":
        create(place)
    elif taken == "file":
        place.write_text("mine")
    elif taken == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError) as caught:
        create(place)
    assert caught.value.field == "run"
    assert snapshot(tmp_path) == before


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    assert is_run(create(tmp_path / "first").folder)


@pytest.mark.parametrize("name", [".hidden", "a b", "x" * 65, "con", "é"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(PathError):
        create(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SaveError):
        create(tmp_path / "first")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            Run.open(place)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", DataError),
        ("[]", DataError),
        ('{"kind": "bb_wm run", "format": 1}', DataError),
        ('{"kind": "bb_wm run", "format": 99}', VersionError),
        ('{"kind": "bb_wm run", "format": 1, "format": 1}', DataError),
        ('{"kind": NaN}', DataError),
    ],
)
def test_a_damaged_run_json(tmp_path: Path, text: str, error: type[Exception]) -> None:
    run = create(tmp_path / "first")
    (run.folder / "run.json").write_text(text)
    with pytest.raises(error):
        Run.open(run.folder)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    run = create(tmp_path / "first")
    with run.lock(), pytest.raises(LockError):
        run.lock()
    run.lock().release()


def test_evaluations_are_replaced_whole(tmp_path: Path) -> None:
    run = create(tmp_path / "first")
    with pytest.raises(DataError):
        run.read_evaluation()
    run.write_evaluation({"nrmse": {"1": 0.5}})
    with pytest.raises(SaveError):
        run.write_evaluation({"nrmse": float("nan")})
    assert run.read_evaluation() == {"nrmse": {"1": 0.5}}


def test_models_come_from_checkpoints(tmp_path: Path) -> None:
    run = create(tmp_path / "first")
    with pytest.raises(CheckpointError):
        run.load_model()
    fresh = run.build_model()
    assert fresh.config == CONFIG
    other = WorldModel(3, 2, CONFIG.override(seed=6))
    save_checkpoint(run.checkpoints, 1, named(other), {})
    save_best(run.checkpoints, 1, named(fresh), {})
    for best, expected in ((False, other), (True, fresh)):
        found = run.load_model(best=best).state_tensors()
        for name, tensor in expected.state_tensors().items():
            assert found[name].equal(tensor), name


def named(model: WorldModel) -> dict[str, object]:
    return {f"model:{name}": tensor for name, tensor in model.state_tensors().items()}


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*"))
    return {str(path): path.read_text() if path.is_file() else "" for path in files}
