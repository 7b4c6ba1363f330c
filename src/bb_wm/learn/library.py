"""The rows of a run: from its stores first, then from the source, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bb_wm.errors import BBWMError, CheckpointError, ConfigError, DataError
from bb_wm.learn.callbacks import Callback
from bb_wm.learn.interruption import Interruption
from bb_wm.learn.settings import TrainSettings
from bb_wm.learn.state import TrainState

if TYPE_CHECKING:
    from bb_wm.data import EpisodeStore, SequenceSampler
    from bb_wm.learn.run import Run
    from bb_wm.learn.sources import EpisodeSource
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Batch, Episode

Tell = Callable[[Callable[[Callback], None]], None]


class Library:
    """Both parts of a run's rows and the sampler over those learnt from.

    Training sees the first `state.episodes` episodes and no others, however many a killed process
    had already stored: those come again when their turn comes, from the store.
    """

    def __init__(
        self, run: Run, model: WorldModel, settings: TrainSettings, source: EpisodeSource | None
    ) -> None:
        if settings.interleave and getattr(source, "looks_ahead", False):
            raise ConfigError(
                "workers",
                expected="1 when rows and updates alternate under a policy",
                actual="several",
                hint="others would act with a policy of unknown age.",
            )
        self._run, self._model, self._settings, self._source = run, model, settings, source
        self._coming: Iterator[Episode] | None = None
        self.train: list[Episode] = []
        self.heldout: list[Episode] = []
        self.problems: list[str] = []
        self._sampler: SequenceSampler | None = None
        self._sampler_state: Any = None

    def open(self) -> None:
        """Opens both stores; damaged episodes are set aside by them and said in `problems`."""
        from bb_wm.data import EpisodeStore

        specs = (self._model.obs_spec, self._model.action_spec)
        self._stored = EpisodeStore(self._run.episodes, *specs)
        self._kept_apart = EpisodeStore(self._run.heldout, *specs)

    def close(self) -> None:
        self._stop_source()

    def restore(self, state: TrainState, sampler: Any) -> None:
        """Brings back the rows training saw at a checkpoint, and the sampler's place in them."""
        if len(self._stored) < state.episodes:
            raise CheckpointError(
                "episodes",
                expected=f"{state.episodes} whole episodes, as the checkpoint knew",
                actual=f"{len(self._stored)} in {self._run.episodes}",
                hint="rows are missing or damaged: put them back, or begin a new run.",
            )
        self.train = [self._stored[index] for index in range(state.episodes)]
        self._sampler_state = sampler

    def hold_out(self, state: TrainState, stop: Interruption, tell: Tell) -> None:
        """Reads or collects the held-out episodes."""
        rows, goal = 0, self._settings.heldout_rows
        while rows < goal and not stop:
            episode = self._next(self._kept_apart, len(self.heldout), True, goal - rows, stop)
            if episode is None:
                break
            self.heldout.append(episode)
            rows += len(episode)
            self._announce(tell, rows, len(self.heldout), True)
        self._stop_source()

    def collect(self, state: TrainState, stop: Interruption, tell: Tell) -> bool:
        """Reads or collects what is due before the next update; False when stopped meanwhile."""
        while self._needs_rows(state):
            if stop:
                return False
            if state.rows >= state.rows_goal:
                state.rows_goal = self._next_goal(state)
            left = self._settings.rows - state.rows
            episode = self._next(self._stored, state.episodes, False, left, stop)
            if stop and episode is None:
                return False
            if episode is None:
                state.exhausted = True
                break
            self.train.append(episode)
            state.episodes += 1
            state.rows += len(episode)
            if self._sampler is not None:
                self._sampler.add(episode)
            self._announce(tell, state.rows, state.episodes, False)
        return True

    def _needs_rows(self, state: TrainState) -> bool:
        settings = self._settings
        if state.exhausted or state.rows >= settings.rows:
            return False
        if not settings.interleave or state.rows < state.rows_goal or not state.rows_goal:
            return True
        state.first_turn_rows = state.first_turn_rows or state.rows
        paid = int((state.rows - state.first_turn_rows) * settings.update_ratio)
        return state.update >= paid

    def _next_goal(self, state: TrainState) -> int:
        settings = self._settings
        if not settings.interleave:
            return settings.rows
        turn = settings.interleave if state.rows_goal else settings.first_rows
        return min(state.rows + turn, settings.rows)

    def _next(
        self, store: EpisodeStore, index: int, heldout: bool, rows: int, stop: Interruption
    ) -> Episode | None:
        """Episode `index` of a part: as stored, else from the source and then stored durably."""
        if index < len(store):
            return store[index]
        if self._source is None:
            return None
        if self._coming is None:
            self._coming = self._source.episodes(heldout=heldout, first=index, rows=rows)
        try:
            episode = next(self._coming, None)
        except BBWMError:
            if stop:  # the signal reached the source's workers as well
                return None
            raise
        if episode is not None:
            store.append(episode)
        return episode

    def _stop_source(self) -> None:
        if self._coming is not None and hasattr(self._coming, "close"):
            self._coming.close()
        self._coming = None

    @staticmethod
    def _announce(tell: Tell, rows: int, episodes: int, heldout: bool) -> None:
        tell(lambda callback: callback.collected(rows, episodes, heldout))

    def sample(self) -> Batch:
        """The next batch. Raises DataError when there are too few rows for one sequence."""
        if self._sampler is None:
            self._sampler = self._new_sampler()
        return self._sampler.sample()

    def _new_sampler(self) -> SequenceSampler:
        from bb_wm.data import SequenceSampler

        settings = self._settings
        if not self.train:
            raise DataError("episodes", expected="at least one", actual="none")
        sampler = SequenceSampler(
            self.train,
            batch_size=settings.batch_size,
            length=settings.length,
            seed=settings.seed,
        )
        if self._sampler_state is not None:
            sampler.load_state(self._sampler_state)
        return sampler

    def sampler_state(self) -> Any:
        """What `restore` needs; None while nothing was sampled."""
        return self._sampler_state if self._sampler is None else self._sampler.state()
