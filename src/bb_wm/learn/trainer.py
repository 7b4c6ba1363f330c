"""Collect, update, look, save: one training run from its first row to its last checkpoint.

A run that was interrupted, killed or paused goes on bit for bit as if it had not been: model and
optimiser, every generator, the sampler, the log of metrics and the best score come from the
checkpoint, and episodes already on disk are read instead of recorded again. How often one logs,
evaluates or saves changes nothing that is learnt.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from bb_wm import durable
from bb_wm.durable.tensors import digest_tensors
from bb_wm.errors import BatchError, CheckpointError, SaveError
from bb_wm.learn.callbacks import Callback, Record, TrainResult
from bb_wm.learn.checkpoint import (
    Checkpoint,
    finite_or_none,
    list_steps,
    load_checkpoint,
    save_best,
    save_checkpoint,
    set_aside,
)
from bb_wm.learn.interruption import Interruption
from bb_wm.learn.library import Library
from bb_wm.learn.metrics import EventLog, MetricsLog
from bb_wm.learn.settings import TrainSettings
from bb_wm.learn.state import RECENT, WATCHING, TrainState
from bb_wm.learn.unchanged import unchanged

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.learn.run import Run
    from bb_wm.learn.sources import EpisodeSource
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Batch, Episode

Evaluate = Callable[["WorldModel", "Sequence[Episode]"], Mapping[str, float]]


class Learner(Protocol):
    """A policy that learns beside the model: one update of its own per `update_ratio` of ours."""

    def update(self, batch: Batch) -> Mapping[str, float]: ...

    def state_tensors(self) -> Mapping[str, Tensor]: ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None: ...


class HaltError(Exception):
    """Training must not go on; the text says why."""


class Trainer:
    """Trains `model` in the folder of `run` on what `source` gives.

    `evaluate` judges the model on the held-out episodes; it may draw chance, but what it changes in
    the model is put back. `source` may be None when the folder already holds enough rows.
    """

    def __init__(
        self,
        run: Run,
        model: WorldModel,
        source: EpisodeSource | None,
        settings: TrainSettings | None = None,
        *,
        evaluate: Evaluate | None = None,
        learner: Learner | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.run = run
        self.model = model
        self.settings = run.settings if settings is None else settings
        self.settings.check_resumes(run.settings)
        self.state = TrainState()
        self._evaluate = evaluate
        self._learner = learner
        self._callbacks = tuple(callbacks)
        self._library = Library(run, model, self.settings, source)
        self._metrics = MetricsLog(run.metrics)
        self._events = EventLog(run.events)
        self._notes: list[str] = []
        self._failed_saves = 0
        self._stop = Interruption()
        self._halted = False
        self._problems: tuple[str, ...] = ()

    def train(self, until: int | None = None) -> TrainResult:
        """Trains to the end, or pauses after update number `until`; from the last checkpoint on.

        Where due, after an update come log, evaluation and checkpoint, in this order, so that a
        checkpoint knows of the others.

        SIGINT or SIGTERM finishes the update, saves and returns with exit code 130 or 143; a second
        one ends the process. Raises AlignmentError when the rows are shifted, CheckpointError when
        every checkpoint is damaged, LockError when another process trains here, and DataError or
        SaveError when rows can be neither had nor kept.
        """
        begun = time.monotonic()
        with self.run.lock(), Interruption() as self._stop:
            try:
                self._begin()
                reason, report = self._work(until)
            except HaltError as halt:
                reason, report = "halted", str(halt)
                self._halted = True
                self._save()
            finally:
                self._library.close()
            result = self._result(reason, report, time.monotonic() - begun)
            self._write_down(report)
            self._tell(lambda callback: callback.ended(result))
        return result

    # --- beginning ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._halted = False
        self._library.open()
        steps = list_steps(self.run.checkpoints)
        self.state, self._problems = TrainState(), ()
        if steps:
            self._restore(load_checkpoint(self.run.checkpoints))
        lost = self._metrics.cut(self.state.metric_lines)
        update = self.state.update
        self._tell(lambda c: c.started(self.run.folder, self.settings, update))
        self._write_down(f"{'resumed' if steps else 'started'} at update {update}")
        for note in (*self._library.problems, *self._problems):
            self._note(note)
        if not steps:
            self._save()  # what the model was like at first, should it have been trained before
        if lost:
            self._note(f"metrics.jsonl had lost {lost} lines that the checkpoint knew")

    def _restore(self, found: Checkpoint) -> None:
        meta = found.meta
        try:
            before = TrainSettings.from_json(meta["settings"])
            sampler = meta["sampler"]
            state = TrainState.from_json(meta["state"])
        except KeyError as cause:
            raise CheckpointError("meta", expected="a training state", actual=cause) from cause
        self.settings.check_resumes(before)
        learnt = found.part("learner")
        if bool(learnt) != (self._learner is not None):
            raise CheckpointError(
                "learner",
                expected="one, as in the checkpoint" if learnt else "none",
                actual="none" if self._learner is None else "one",
            )
        self.model.load_state_tensors(found.part("model"))
        if self._learner is not None:
            self._learner.load_state_tensors(learnt)
        if state.skipped_in_a_row >= self.settings.skip_limit:
            state.skipped_in_a_row = 0  # it had halted; a person has looked and goes on
        self.state = state
        self._library.restore(state, sampler)
        set_aside(self.run.checkpoints, found.step)
        self._problems = tuple(
            f"{error} Set aside; went back to update {found.step}." for error in found.problems
        )

    # --- the loop ----------------------------------------------------------------------------

    def _work(self, until: int | None) -> tuple[str, str]:
        goal = self.settings.updates if until is None else min(until, self.settings.updates)
        self._library.hold_out(self._stop, self._tell)
        while not self._stop:
            if self.state.update and self._due(self.settings.evaluate_every):
                self._judge()  # an interruption had come between the update and this
            if not self._library.collect(self.state, self._stop, self._tell):
                break
            if self.state.update == 0 and self.state.batches == 0:
                self._probe()
            if self.state.update >= goal:
                return self._finish(goal)
            if not self._one_batch():
                continue
            if self._due(self.settings.log_every) or self.state.update == self.settings.updates:
                self._log("train", self.state.take_means())
            if self._stop:
                break
            if self._due(self.settings.evaluate_every):
                self._judge()
            if self._due(self.settings.checkpoint_every):
                self._save()
        self._save()
        name = {2: "SIGINT", 15: "SIGTERM"}.get(self._stop.signal or 0, "a signal")
        return "interrupted", f"Stopped by {name} after update {self.state.update}; saved."

    def _finish(self, goal: int) -> tuple[str, str]:
        if goal < self.settings.updates:
            self._save()
            return "paused", f"Paused after update {self.state.update}; saved."
        if self.state.evaluated != self.state.update:
            self._judge()
        self._save()
        if self.state.update > goal:
            done = f"{self.state.update} updates are done, {goal} were asked for"
            return "finished", f"Nothing to train: {done}."
        return "finished", f"Trained {goal} updates."

    def _one_batch(self) -> bool:
        """One update of the model, and of a learning policy when due; False: a batch refused."""
        try:
            batch = self._library.sample()
            loss, metrics = self.model.update(batch)
        except BatchError as error:
            self._refuse(error)
            return False
        self.state.count_bad(False)
        self.state.update += 1
        numbers = {"loss": float(loss), **{key: float(value) for key, value in metrics.items()}}
        self._count_skipped(numbers)
        if self._learner is not None:
            while self.state.policy_updates < int(self.state.update / self.settings.update_ratio):
                self.state.policy_updates += 1
                numbers |= self._learner.update(batch)
        self.state.add(numbers)
        update = self.state.update
        self._tell(lambda callback: callback.updated(update, numbers["loss"], numbers))
        return True

    def _refuse(self, error: BatchError) -> None:
        recent = self.state.count_bad(True)
        if self.state.bad_batches <= 3:
            self._note(f"batch {self.state.batches} refused: {error}")
        if recent >= self.settings.bad_batch_limit * RECENT:
            raise HaltError(
                f"Halted: {recent} of the last {min(self.state.batches, RECENT)} batches were "
                f"refused, the last because {error}"
            )

    def _count_skipped(self, numbers: Mapping[str, float]) -> None:
        state = self.state
        skipped = numbers.get("skipped", 0.0) != 0
        state.skipped += skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
        if state.skipped_in_a_row >= self.settings.skip_limit:
            raise HaltError(
                f"Halted: {state.skipped_in_a_row} updates in a row had a loss or gradient that is "
                f"not finite; the parameters are those before them."
            )

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.update % every == 0

    # --- looking -----------------------------------------------------------------------------

    def _probe(self) -> None:
        if not self.settings.probe:
            self._note("alignment probe switched off: shifted rows would go unnoticed")
            return
        from bb_wm.data import probe_alignment

        report = probe_alignment(self._library.train_episodes())
        self._note(f"alignment probe: {report.verdict}, {report.reason}")
        report.raise_if_shifted()

    def _judge(self) -> None:
        if self._evaluate is None or self.state.evaluated == self.state.update:
            return
        if not self._library.heldout:
            return
        with unchanged(self.model) as check:
            numbers = dict(self._evaluate(self.model, self._library.heldout))
        if check.changed:
            self._note(f"evaluating changed {check.changed} of the model; put back")
        self.state.evaluated = self.state.update
        record = self._log("evaluate", {key: float(value) for key, value in numbers.items()})
        score = finite_or_none(record.numbers.get(self.settings.best_metric))
        if score is not None and (self.state.best is None or score < self.state.best):
            self.state.best, self.state.best_update = score, self.state.update
            self._save(best=True)

    def _log(self, kind: Any, numbers: Mapping[str, float]) -> Record:
        state = self.state
        record = Record(kind, state.update, state.rows, state.episodes, numbers)
        state.metric_lines += 1
        try:
            self._metrics.append(record)
        except SaveError as error:
            self._failed(error)
        if kind == "train":
            self._tell(lambda callback: callback.logged(record))
        else:
            self._tell(lambda callback: callback.evaluated(record))
        return record

    # --- saving ------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model:{name}": t for name, t in self.model.state_tensors().items()}
        if self._learner is not None:
            learnt = self._learner.state_tensors()
            tensors |= {f"learner:{name}": t for name, t in learnt.items()}
        return tensors

    def _meta(self) -> dict[str, Any]:
        return {
            "state": self.state.to_json(),
            "settings": self.settings.to_json(),
            "sampler": self._library.sampler_state(),
        }

    def _save(self, *, best: bool = False) -> None:
        update, keep = self.state.update, self.settings.keep
        folder = self.run.checkpoints
        try:
            self._metrics.write_waiting(sync=True)
            if best:
                path = save_best(folder, update, self._tensors(), self._meta())
            else:
                path = save_checkpoint(folder, update, self._tensors(), self._meta(), keep)
        except SaveError as error:
            self._failed(error)
            return
        self._tell(lambda callback: callback.saved(update, path))

    def _failed(self, error: SaveError) -> None:
        self._failed_saves += 1
        update = self.state.update
        self._tell(lambda callback: callback.save_failed(update, error))
        self._note(f"not saved at update {update}: {error}")
        if self.settings.on_save_error == "halt" and not self._halted:
            raise HaltError(f"Halted: {error}")

    # --- telling -----------------------------------------------------------------------------

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            call(callback)

    def _note(self, note: str) -> None:
        self._notes.append(note)
        self._write_down(note)
        self._tell(lambda callback: callback.noticed(note))

    def _write_down(self, note: str) -> None:
        self._events.append(datetime.now(UTC).isoformat(timespec="seconds"), note)

    def digest(self) -> str:
        """SHA-256 of all that decides how training goes on: tensors, sampler and counts, but not
        how closely it was watched."""
        counts = {k: v for k, v in self.state.to_json().items() if k not in WATCHING}
        rest = {"counts": counts, "sampler": self._library.sampler_state()}
        whole = digest_tensors(self._tensors()).encode() + durable.dump_json(rest, "state")
        return hashlib.sha256(whole).hexdigest()

    def _result(self, reason: Any, report: str, seconds: float) -> TrainResult:
        state = self.state
        codes = {"halted": 1, "interrupted": self._stop.exit_code}
        return TrainResult(
            reason=reason,
            report=report,
            exit_code=codes.get(reason, 0),
            updates=state.update,
            rows=state.rows,
            episodes=state.episodes,
            skipped=state.skipped,
            bad_batches=state.bad_batches,
            failed_saves=self._failed_saves,
            digest=self.digest(),
            best=state.best,
            seconds=seconds,
            notes=tuple(self._notes),
        )
