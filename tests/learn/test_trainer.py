"""Training itself: exact resumption, what watching may not change, and how it halts."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.learn.helpers import CONFIG, SETTINGS, judge, line_world, make_model, make_trainer

from bb_wm import WorldModel
from bb_wm.data import EpisodeStore
from bb_wm.durable.tensors import digest_tensors
from bb_wm.errors import (
    AlignmentError,
    BatchError,
    CheckpointError,
    ConfigError,
    DataError,
    LockError,
    SaveError,
)
from bb_wm.learn import (
    Callback,
    RecordedSource,
    Run,
    TrainResult,
    WorldSource,
    load_best,
    load_checkpoint,
    read_metrics,
)
from bb_wm.learn.checkpoint import list_steps
from bb_wm.testing.worlds import EchoWorld
from bb_wm.types import Batch, Episode

INTERLEAVED = replace(
    SETTINGS, interleave=20, update_ratio=0.25, first_rows=60, rows=200, updates=12
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """The uninterrupted run that others are compared with."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, make_trainer(folder).train()


@pytest.fixture(scope="module")
def whole_interleaved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("runs") / "interleaved"
    return folder, make_trainer(folder, INTERLEAVED).train()


def same_files(folder: Path, other: Path) -> None:
    """Byte for byte: the log, every checkpoint kept, the best one, and all rows."""
    for part in ("metrics.jsonl", "checkpoints/best/model.safetensors"):
        assert (folder / part).read_bytes() == (other / part).read_bytes(), part
    steps = list_steps(folder / "checkpoints")
    assert steps
    mine, theirs = load_checkpoint(folder / "checkpoints"), load_checkpoint(other / "checkpoints")
    assert mine.meta == theirs.meta
    assert digest_tensors(mine.tensors) == digest_tensors(theirs.tensors)
    for part in ("episodes", "episodes-heldout"):
        rows = [list(EpisodeStore(place / part, mode="r")) for place in (folder, other)]
        assert len(rows[0]) == len(rows[1]) > 0
        for one, two in zip(*rows, strict=True):
            assert np.array_equal(one.obs["obs"], two.obs["obs"])
            assert np.array_equal(one.action, two.action)


# --- resuming ------------------------------------------------------------------------------------


def test_resumed_at_every_update_equals_uninterrupted(
    tmp_path: Path, whole: tuple[Path, TrainResult]
) -> None:
    folder = tmp_path / "again"
    for until in range(SETTINGS.updates + 1):
        torch.manual_seed(until)  # whatever stood in the global generators is of no account
        random.seed(until)
        result = make_trainer(folder).train(until=until)
        assert (result.updates, result.reason) == (
            until,
            "paused" if until < SETTINGS.updates else "finished",
        )
    assert result.digest == whole[1].digest
    assert result.best == whole[1].best
    same_files(folder, whole[0])


@pytest.mark.parametrize("points", [(3, 11), (5, 6, 7)])
def test_interleaved_and_resumed_equals_uninterrupted(
    tmp_path: Path, whole_interleaved: tuple[Path, TrainResult], points: tuple[int, ...]
) -> None:
    folder = tmp_path / "again"
    for until in (*points, None):
        result = make_trainer(folder, INTERLEAVED).train(until=until)
    assert result.digest == whole_interleaved[1].digest
    same_files(folder, whole_interleaved[0])


def test_episodes_beyond_the_checkpoint_are_seen_only_when_their_turn_comes(
    tmp_path: Path, whole_interleaved: tuple[Path, TrainResult]
) -> None:
    """As after a kill: the store has every episode, the checkpoint knows of the first few."""
    folder = tmp_path / "again"
    make_trainer(folder, INTERLEAVED).train(until=3)
    store = EpisodeStore(folder / "episodes")
    known = store.next_id
    rest = [e for _, e in EpisodeStore(whole_interleaved[0] / "episodes", mode="r").items(known)]
    assert rest
    store.append(rest)
    store.close()
    result = make_trainer(folder, INTERLEAVED, source=None).train()
    assert result.digest == whole_interleaved[1].digest


def test_the_same_trainer_may_go_on(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    trainer = make_trainer(tmp_path / "again")
    trainer.train(until=7)
    assert trainer.train().digest == whole[1].digest


def test_a_damaged_checkpoint_gives_way_and_is_repeated(
    tmp_path: Path, whole: tuple[Path, TrainResult]
) -> None:
    folder = tmp_path / "again"
    make_trainer(folder).train(until=8)
    damaged = folder / "checkpoints" / "step-000000008" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    result = make_trainer(folder).train()
    assert any("went back to update 5" in note for note in result.notes)
    assert result.digest == whole[1].digest
    assert (folder / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert (folder / "checkpoints" / "damaged-step-000000008").is_dir()


def test_only_damaged_checkpoints_stop_rather_than_start_over(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    make_trainer(folder).train(until=2)
    for step in list_steps(folder / "checkpoints"):
        (folder / "checkpoints" / f"step-{step:09d}" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        make_trainer(folder).train()


def test_lost_rows_stop_with_a_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    make_trainer(folder, INTERLEAVED).train(until=8)
    for chunk in (folder / "episodes" / "chunks").iterdir():
        chunk.unlink()
    with pytest.raises(CheckpointError, match="episodes"):
        make_trainer(folder, INTERLEAVED).train()


def test_a_pretrained_model_is_where_a_run_begins(tmp_path: Path) -> None:
    model = make_model()
    make_trainer(tmp_path / "first", model=model).train(until=3)
    second = make_trainer(tmp_path / "second", model=model).train(until=4)
    fresh = make_trainer(tmp_path / "second", model=make_model())
    assert fresh.train(until=4).digest == second.digest
    assert fresh.model.updates == 3 + 4


def test_a_run_may_be_made_longer_but_not_other(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = replace(SETTINGS, updates=4)
    make_trainer(folder, short).train()
    assert make_trainer(folder, replace(short, updates=6)).train().updates == 6
    with pytest.raises(ConfigError) as caught:
        make_trainer(folder, replace(short, batch_size=4))
    assert caught.value.field == "batch_size"


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_trainer(folder).train(until=1)
    with pytest.raises(CheckpointError):
        make_trainer(folder, model=make_model(CONFIG.override(hidden=9))).train()


def test_two_trainers_in_one_folder(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run")
    with trainer.run.lock(), pytest.raises(LockError):
        trainer.train()


# --- what changes nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every": 1, "evaluate_every": 1, "checkpoint_every": 1},
        {"log_every": 1000, "evaluate_every": 0, "checkpoint_every": 1000, "keep": 1},
    ],
)
def test_how_closely_one_watches_changes_nothing(
    tmp_path: Path, whole: tuple[Path, TrainResult], changes: Mapping[str, Any]
) -> None:
    result = make_trainer(tmp_path / "run", replace(SETTINGS, **changes)).train()
    assert result.digest == whole[1].digest


def test_an_evaluation_that_meddles_changes_nothing(
    tmp_path: Path, whole: tuple[Path, TrainResult]
) -> None:
    def meddle(model: WorldModel, episodes: Any) -> Mapping[str, float]:
        numbers = judge(model, episodes)
        torch.rand(3), np.random.rand(3), random.random()
        latent = model.encode(episodes[0].obs["obs"][:2])
        model.rollout(latent, lambda s: torch.zeros(2, 1), 3, mode="sample")
        for tensor in model.state_tensors().values():
            if tensor.is_floating_point():
                with torch.no_grad():
                    tensor.add_(1.0)
        return numbers

    result = make_trainer(tmp_path / "run", evaluate=meddle).train()
    assert result.digest == whole[1].digest
    assert any("put back" in note for note in result.notes)


def test_global_chance_decides_nothing(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    class Scramble(Callback):
        def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
            torch.manual_seed(update)
            np.random.seed(update)

    result = make_trainer(tmp_path / "run", callbacks=[Scramble()]).train()
    assert result.digest == whole[1].digest


def test_seeds_differ_and_repeat(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    assert make_trainer(tmp_path / "a").train().digest == whole[1].digest
    two = [replace(SETTINGS, seed=seed, updates=1) for seed in (3, 4)]
    assert (
        make_trainer(tmp_path / "b", two[0], evaluate=None).train().digest
        != make_trainer(tmp_path / "c", two[1], evaluate=None).train().digest
    )


# --- the loop ------------------------------------------------------------------------------------


class Diary(Callback):
    """Every call with its update."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []

    def started(self, folder: Path, settings: Any, update: int) -> None:
        self.lines.append(("started", update))

    def collected(self, rows: int, episodes: int, heldout: bool) -> None:
        self.lines.append(("heldout" if heldout else "collected", rows))

    def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
        self.lines.append(("updated", update))

    def logged(self, record: Any) -> None:
        self.lines.append(("logged", record.update))

    def evaluated(self, record: Any) -> None:
        self.lines.append(("evaluated", record.update))

    def saved(self, update: int, path: Path) -> None:
        self.lines.append((f"saved {path.name[:4]}", update))

    def ended(self, result: TrainResult) -> None:
        self.lines.append(("ended", result.updates))


def test_callbacks_come_in_order(tmp_path: Path) -> None:
    diary = Diary()
    settings = replace(
        SETTINGS, rows=90, updates=3, log_every=2, evaluate_every=2, checkpoint_every=2
    )
    scores = iter([0.5, 0.9])
    make_trainer(
        tmp_path / "run",
        settings,
        callbacks=[diary],
        evaluate=lambda model, episodes: {"score": next(scores)},
    ).train()
    assert diary.lines == [
        ("started", 0),
        ("saved step", 0),
        ("heldout", 30),
        ("heldout", 60),
        ("collected", 30),
        ("collected", 60),
        ("collected", 90),
        ("updated", 1),
        ("updated", 2),
        ("logged", 2),
        ("evaluated", 2),
        ("saved best", 2),
        ("saved step", 2),
        ("updated", 3),
        ("logged", 3),
        ("evaluated", 3),
        ("saved step", 3),
        ("ended", 3),
    ]


def test_rows_and_updates_alternate_by_the_ratio(tmp_path: Path) -> None:
    """By hand: episodes of 30 rows; 60 first, then turns of 40 (two episodes, 60 rows), each
    paying 60 * 0.1 = 6 updates; from 180 rows on, the budget, the rest of the updates."""
    diary = Diary()
    settings = replace(
        SETTINGS, rows=180, interleave=40, update_ratio=0.1, first_rows=50, updates=15
    )
    make_trainer(tmp_path / "run", settings, callbacks=[diary], evaluate=None).train()
    told = [line for line in diary.lines if line[0] in ("collected", "updated")]
    expected = [("collected", rows) for rows in (30, 60, 90, 120)]
    expected += [("updated", update) for update in range(1, 7)]
    expected += [("collected", 150), ("collected", 180)]
    expected += [("updated", update) for update in range(7, 16)]
    assert told == expected


def test_the_log_holds_means_by_hand(tmp_path: Path) -> None:
    losses: list[float] = []

    class Keep(Callback):
        def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
            losses.append(loss)

    make_trainer(
        tmp_path / "run", replace(SETTINGS, updates=7), callbacks=[Keep()], evaluate=None
    ).train()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["update"] for line in lines] == [4, 7]
    assert lines[0]["loss"] == pytest.approx(sum(losses[:4]) / 4, rel=1e-12)
    assert lines[1]["loss"] == pytest.approx(sum(losses[4:]) / 3, rel=1e-12)


def test_the_best_is_the_smallest_held_out(tmp_path: Path) -> None:
    scores = iter([0.9, 0.3, 0.5, 0.4])
    settings = replace(SETTINGS, evaluate_every=2, updates=8)
    trainer = make_trainer(
        tmp_path / "run", settings, evaluate=lambda model, episodes: {"score": next(scores)}
    )
    result = trainer.train()
    assert result.best == 0.3
    best = load_best(trainer.run.checkpoints)
    assert best.step == 4
    assert trainer.run.load_model(best=True).updates == 4
    assert trainer.run.load_model().updates == 8


def test_held_out_rows_are_other_rows(whole: tuple[Path, TrainResult]) -> None:
    train = list(EpisodeStore(whole[0] / "episodes", mode="r"))
    heldout = list(EpisodeStore(whole[0] / "episodes-heldout", mode="r"))
    assert (len(train), len(heldout)) == (10, 2)
    starts = {episode.obs["obs"][0].tobytes() for episode in (*train, *heldout)}
    assert len(starts) == 12


def test_the_policy_acts(tmp_path: Path) -> None:
    source = WorldSource(line_world, policy=lambda obs: np.array([0.5], np.float32))
    make_trainer(tmp_path / "run", source=source, evaluate=None).train(until=1)
    for episode in EpisodeStore(tmp_path / "run" / "episodes", mode="r"):
        assert (episode.action[:-1] == 0.5).all()


# --- sources -------------------------------------------------------------------------------------


def recorded(count: int) -> list[Episode]:
    return list(WorldSource(line_world, seed=1).episodes(heldout=False, first=0, rows=30 * count))


def test_recorded_rows_train_as_the_world_does(tmp_path: Path) -> None:
    episodes = recorded(10)
    apart = recorded(12)[10:]
    source = RecordedSource(episodes, apart)
    alive = make_trainer(tmp_path / "alive", source=RecordedSource(recorded(10), apart))
    again = make_trainer(tmp_path / "again", source=source)
    again.train(until=5)
    again = make_trainer(tmp_path / "again", source=source)
    assert again.train().digest == alive.train().digest


def test_a_recording_that_ends_early_is_enough(tmp_path: Path) -> None:
    result = make_trainer(tmp_path / "run", source=RecordedSource(recorded(2))).train(until=2)
    assert (result.rows, result.updates) == (60, 2)


def test_split_is_seeded_whole_and_never_empty() -> None:
    episodes = recorded(10)
    source = RecordedSource.split(episodes, heldout=0.2, seed=1)
    train = list(source.episodes(heldout=False, first=0, rows=10**6))
    apart = list(source.episodes(heldout=True, first=0, rows=10**6))
    assert (len(train), len(apart)) == (8, 2)
    assert {id(e) for e in (*train, *apart)} == {id(e) for e in episodes}
    assert len(list(source.episodes(heldout=False, first=3, rows=60))) == 2
    small = RecordedSource.split(episodes[:2], heldout=0.01)
    assert len(list(small.episodes(heldout=True, first=0, rows=10**6))) == 1
    with pytest.raises(ConfigError):
        RecordedSource.split(episodes[:1])
    with pytest.raises(ConfigError):
        RecordedSource([])


def test_no_rows_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        make_trainer(tmp_path / "run", source=None, evaluate=None).train()


def echoes(shift: int) -> list[Episode]:
    """EchoWorld's rows with every action moved by `shift` rows, as wrong conversions do."""
    episodes = []
    source = WorldSource(lambda: EchoWorld(length=40), seed=1)
    for episode in source.episodes(heldout=False, first=0, rows=1200):
        action = np.roll(episode.action, shift, axis=0)
        action[-1] = 0
        episodes.append(replace(episode, action=action))
    return episodes


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_shifted_rows_stop_training_before_the_first_update(tmp_path: Path, shift: int) -> None:
    world = EchoWorld()
    model = WorldModel(world.observation_space, world.action_space, CONFIG)
    settings = replace(SETTINGS, rows=1200, heldout_rows=0, updates=1, probe=True)
    trainer = make_trainer(
        tmp_path / "run", settings, model=model, source=RecordedSource(echoes(shift))
    )
    if shift == 0:
        result = trainer.train()
        assert result.updates == 1
        assert any("alignment probe: aligned" in note for note in result.notes)
        return
    with pytest.raises(AlignmentError, match=re.escape(f"yours[t{shift:+d}]")):
        trainer.train()
    assert model.updates == 0
    louder = make_trainer(
        tmp_path / "other",
        replace(settings, probe=False),
        model=model,
        source=RecordedSource(echoes(shift)),
    )
    assert any("switched off" in note for note in louder.train().notes)


def test_a_policy_of_unknown_age_is_refused(tmp_path: Path) -> None:
    source = WorldSource(line_world, policy=lambda obs: obs[:1], workers=2)
    with pytest.raises(ConfigError) as caught:
        make_trainer(tmp_path / "run", INTERLEAVED, source=source)
    assert caught.value.field == "workers"


def test_a_world_that_breaks_keeps_what_was_recorded(tmp_path: Path) -> None:
    class Breaks:
        looks_ahead = False

        def episodes(self, *, heldout: bool, first: int, rows: int) -> Iterator[Episode]:
            yield from recorded(3)
            raise DataError("environment", expected="an answer", actual="smoke")

    settings = replace(SETTINGS, heldout_rows=0)
    with pytest.raises(DataError, match="smoke"):
        make_trainer(tmp_path / "run", settings, source=Breaks()).train()
    assert len(EpisodeStore(tmp_path / "run" / "episodes", mode="r")) == 3


# --- interruption --------------------------------------------------------------------------------


class Signal(Callback):
    """Sends a signal to this process in the middle of an update or of collecting."""

    def __init__(self, number: int, *, update: int = -1, rows: int = -1) -> None:
        self.number, self.update, self.rows = number, update, rows

    def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
        if update == self.update:
            os.kill(os.getpid(), self.number)

    def collected(self, rows: int, episodes: int, heldout: bool) -> None:
        if rows == self.rows:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("signals", "codes"),
    [
        ([Signal(signal.SIGINT, update=4), Signal(signal.SIGTERM, update=10)], [130, 143]),
        ([Signal(signal.SIGTERM, update=5), Signal(signal.SIGINT, update=8)], [143, 130]),
        ([Signal(signal.SIGTERM, rows=30), Signal(signal.SIGTERM, rows=210)], [143, 143]),
    ],
)
def test_a_signal_saves_and_resuming_equals_uninterrupted(
    tmp_path: Path, whole: tuple[Path, TrainResult], signals: list[Signal], codes: list[int]
) -> None:
    """Updates 4 and 8 are due for log and evaluation, 5 and 10 for a checkpoint."""
    folder = tmp_path / "again"
    for callback, code in zip(signals, codes, strict=True):
        result = make_trainer(folder, callbacks=[callback]).train()
        assert (result.reason, result.exit_code) == ("interrupted", code)
        if callback.update > 0:
            assert result.updates == callback.update
            assert list_steps(folder / "checkpoints")[-1] == callback.update
    assert make_trainer(folder).train().digest == whole[1].digest
    same_files(folder, whole[0])


def test_a_signal_between_turns_of_rows(
    tmp_path: Path, whole_interleaved: tuple[Path, TrainResult]
) -> None:
    folder = tmp_path / "again"
    for rows in (30, 60, 120):
        stop = Signal(signal.SIGINT, rows=rows)
        assert make_trainer(folder, INTERLEAVED, callbacks=[stop]).train().exit_code == 130
    result = make_trainer(folder, INTERLEAVED).train()
    assert result.digest == whole_interleaved[1].digest
    same_files(folder, whole_interleaved[0])


# --- faults --------------------------------------------------------------------------------------


class Poisoned(WorldModel):
    """The real model behind a wire that now and then delivers a broken batch."""

    bad: frozenset[int] = frozenset()
    seen = 0

    def update(self, batch: Any) -> tuple[float, dict[str, float]]:
        self.seen += 1
        if self.seen in self.bad:
            reward = batch.reward.clone()
            reward[0, 1] = float("nan")
            batch = replace(batch, reward=reward)
        return super().update(batch)


def poisoned(bad: Any) -> Poisoned:
    world = line_world()
    model = Poisoned(world.observation_space, world.action_space, CONFIG)
    model.bad = frozenset(bad)
    return model


def test_bad_batches_are_refused_before_the_step(tmp_path: Path) -> None:
    """Parameters are those of a run that never saw the refused batches."""
    bad = (1, 4, 5)
    trainer = make_trainer(tmp_path / "run", model=poisoned(bad), evaluate=None)
    result = trainer.train(until=6)
    assert (result.updates, result.bad_batches) == (6, 3)

    spared = make_model()
    sampler = make_sampler(tmp_path / "run" / "episodes")
    for number in range(1, 10):
        batch = sampler.sample()
        if number not in bad:
            spared.update(batch)
    assert digest_tensors(spared.state_tensors()) == digest_tensors(trainer.model.state_tensors())


def make_sampler(place: Path) -> Any:
    from bb_wm.data import SequenceSampler

    return SequenceSampler(
        EpisodeStore(place, mode="r"),
        batch_size=SETTINGS.batch_size,
        length=SETTINGS.length,
        seed=SETTINGS.seed,
    )


def test_only_bad_batches_halt_within_fifty(tmp_path: Path) -> None:
    model = poisoned(range(1, 1000))
    result = make_trainer(tmp_path / "run", model=model, evaluate=None).train()
    assert (result.reason, result.exit_code, result.updates) == ("halted", 1, 0)
    assert result.bad_batches == model.seen == 50
    assert "50 of the last 50 batches were refused" in result.report
    assert "reward" in result.report


def test_ten_skipped_updates_in_a_row_halt_with_a_good_checkpoint(tmp_path: Path) -> None:
    """A statistic is poisoned from outside after update 2: from there on no loss is finite, and a
    checkpoint with the poison in it is refused."""

    class Poison(Callback):
        def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
            if update == 2:
                trainer.model._training.reward.statistics.mean.fill_(float("nan"))

    trainer = make_trainer(tmp_path / "run", callbacks=[Poison()], evaluate=None)
    result = trainer.train()
    assert (result.reason, result.exit_code) == ("halted", 1)
    assert (result.updates, result.skipped) == (12, 10)
    found = load_checkpoint(trainer.run.checkpoints)
    assert found.step == 0
    assert result.failed_saves == 3  # after updates 5 and 10, and when halting
    assert all(t.isfinite().all() for t in found.tensors.values() if t.is_floating_point())


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)


class FillDisk(Callback):
    """The disk is full from update `first` to `last`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
        self.monkeypatch, self.first, self.last = monkeypatch, first, last
        self.failures: list[tuple[int, SaveError]] = []

    def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
        if update == self.first:
            full_disk(self.monkeypatch)
        if update == self.last:
            self.monkeypatch.undo()

    def save_failed(self, update: int, error: SaveError) -> None:
        self.failures.append((update, error))


def test_a_full_disk_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, TrainResult]
) -> None:
    disk = FillDisk(monkeypatch, 7, 11)
    result = make_trainer(tmp_path / "run", callbacks=[disk]).train()
    assert result.failed_saves == len(disk.failures) > 0
    assert {update for update, _ in disk.failures} <= set(range(7, 11))
    assert {error.errno for _, error in disk.failures} == {28}
    assert result.digest == whole[1].digest
    for part in ("metrics.jsonl",):
        assert (tmp_path / "run" / part).read_bytes() == (whole[0] / part).read_bytes()


def test_a_full_disk_may_halt_and_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, TrainResult]
) -> None:
    settings = replace(SETTINGS, on_save_error="halt")
    disk = FillDisk(monkeypatch, 7, 11)
    result = make_trainer(tmp_path / "run", settings, callbacks=[disk]).train()
    monkeypatch.undo()
    assert (result.reason, result.exit_code) == ("halted", 1)
    assert load_checkpoint(tmp_path / "run" / "checkpoints").step == 5
    assert make_trainer(tmp_path / "run", settings).train().digest == whole[1].digest


def test_an_error_of_the_model_passes_through(tmp_path: Path) -> None:
    class Broken(WorldModel):
        def update(self, batch: Any) -> tuple[float, dict[str, float]]:
            raise RuntimeError("out of order")

    world = line_world()
    model = Broken(world.observation_space, world.action_space, CONFIG)
    with pytest.raises(RuntimeError, match="out of order"):
        make_trainer(tmp_path / "run", model=model).train()
    assert not isinstance(RuntimeError(), BatchError)
    Run.open(tmp_path / "run").lock().release()


# --- a policy that learns ------------------------------------------------------------------------


class Follower:
    """A linear policy that learns to repeat what was done, by least squares steps."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1, 2)
        self.generator = torch.Generator().manual_seed(1)
        self.count = torch.tensor(0)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return np.tanh(self.weight.numpy() @ obs + 0.1 * int(self.count)).astype(np.float32)

    def update(self, batch: Batch) -> Mapping[str, float]:
        obs, action = batch.obs["obs"].reshape(-1, 2), batch.action.reshape(-1, 1)
        noise = 0.1 * torch.randn(self.weight.shape, generator=self.generator)
        error = obs @ self.weight.T - action
        self.weight = self.weight - 0.1 * (error.T @ obs / len(obs) + noise)
        self.count = self.count + 1
        return {"policy_error": float(error.square().mean())}

    def state_tensors(self) -> Mapping[str, torch.Tensor]:
        chance = self.generator.get_state()
        return {"weight": self.weight, "generator": chance, "count": self.count}

    def load_state_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.weight, self.count = tensors["weight"], tensors["count"]
        self.generator.set_state(tensors["generator"])


def test_a_learning_policy_resumes_exactly_and_learns_at_its_ratio(tmp_path: Path) -> None:
    settings = replace(INTERLEAVED, update_ratio=0.5, updates=8, rows=400, log_every=3)
    digests = []
    for name, points in (("whole", (None,)), ("again", (2, 5, None))):
        for until in points:
            policy = Follower()
            source = WorldSource(line_world, seed=1, policy=policy)
            trainer = make_trainer(
                tmp_path / name, settings, source=source, learner=policy, evaluate=None
            )
            result = trainer.train(until=until)
        digests.append(result.digest)
        assert int(policy.count) == 16  # half a model update per policy update
    assert digests[0] == digests[1]
    lines = read_metrics(tmp_path / "again" / "metrics.jsonl")
    assert all("policy_error" in line for line in lines)
    with pytest.raises(CheckpointError, match="learner"):
        make_trainer(tmp_path / "again", settings, evaluate=None).train()
