"""The rows of a run: from its stores first, then from the source, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

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

GROUP_ROWS: Final = 512
"""Short episodes are stored together: each write waits for the disk."""


class SeenEpisodes:
    """The first `next_id` episodes of a store and no others, as a sampler reads them.

    A killed process may have stored more than its last checkpoint knew; those come again when
    their turn comes.
    """

    generation = 0

    def __init__(self, store: EpisodeStore, next_id: int) -> None:
        self.store = store
        self.next_id = next_id

    def items(self, start: int = 0) -> Iterator[tuple[int, Episode]]:
        for number, episode in self.store.items(start):
            if number >= self.next_id:
                return
            yield number, episode


class Library:
    """Both parts of a run's rows, and the sampler over those learnt from."""

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
        self._stores: list[EpisodeStore] = []
        self._sampler: SequenceSampler | None = None
        self._sampler_state: Any = None
        self.heldout: list[Episode] = []

    def open(self) -> None:
        """Opens both stores for writing, with nothing seen yet."""
        from bb_wm.data import EpisodeStore

        self._sampler = self._sampler_state = None
        self._stores = []
        specs = (self._model.obs_spec, self._model.action_spec)
        for place in (self._run.episodes, self._run.heldout):
            self._stores.append(EpisodeStore(place, *specs))
        self._seen = SeenEpisodes(self._stores[0], 0)

    def close(self) -> None:
        self._stop_source()
        for store in self._stores:
            store.close()

    @property
    def problems(self) -> list[str]:
        """What the stores could not believe, one line each."""
        lines = []
        for store in self._stores:
            report = store.report
            lines += [f"episodes set aside: {what}" for what in report.quarantined]
            lines += [f"a torn write was dropped: {what}" for what in report.dropped]
        return lines

    def train_episodes(self) -> list[Episode]:
        """The episodes training has seen."""
        return [episode for _, episode in self._seen.items()]

    def restore(self, state: TrainState, sampler: Any) -> None:
        """Brings back the rows training saw at a checkpoint, and the sampler's place in them."""
        stored = self._stores[0].next_id
        if stored < state.episodes:
            raise CheckpointError(
                "episodes",
                expected=f"{state.episodes} episodes, as the checkpoint knew",
                actual=f"{stored} in {self._run.episodes}",
                hint="rows are missing or damaged: put them back, or begin a new run.",
            )
        self._seen.next_id = state.episodes
        self._sampler_state = sampler

    # --- collecting --------------------------------------------------------------------------

    def hold_out(self, stop: Interruption, tell: Tell) -> None:
        """Reads or collects the held-out episodes."""
        number, rows, goal = 0, 0, self._settings.heldout_rows
        self.heldout = []
        while rows < goal and not stop:
            if not self._has(number, goal - rows, goal - rows, True, stop):
                break
            episode = self._read(number, True)
            number += 1
            if episode is not None:
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
            left, turn = self._settings.rows - state.rows, state.rows_goal - state.rows
            if not self._has(state.episodes, left, turn, False, stop):
                state.exhausted = not stop
                return not stop
            episode = self._read(state.episodes, False)
            state.episodes += 1
            self._seen.next_id = state.episodes
            state.rows += 0 if episode is None else len(episode)
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

    def _has(self, number: int, left: int, turn: int, heldout: bool, stop: Interruption) -> bool:
        """Whether episode `number` is stored, after asking the source for at most `turn` rows."""
        store = self._stores[heldout]
        if number < store.next_id:
            return True
        if self._source is None:
            return False
        if self._coming is None:
            self._coming = self._source.episodes(heldout=heldout, first=number, rows=left)
        group: list[Episode] = []
        rows, wanted = 0, min(turn, GROUP_ROWS)
        try:
            while rows < wanted and not stop:
                episode = next(self._coming, None)
                if episode is None:
                    break
                group.append(episode)
                rows += len(episode)
        except BBWMError:
            if not stop:  # else the signal reached the source's workers as well
                raise
        finally:
            if group:
                store.append(group)
        return number < store.next_id

    def _read(self, number: int, heldout: bool) -> Episode | None:
        """A stored episode; None when it is damaged, which `problems` then says."""
        try:
            return self._stores[heldout][number]
        except DataError:
            return None

    def _stop_source(self) -> None:
        if self._coming is not None and hasattr(self._coming, "close"):
            self._coming.close()
        self._coming = None

    @staticmethod
    def _announce(tell: Tell, rows: int, episodes: int, heldout: bool) -> None:
        tell(lambda callback: callback.collected(rows, episodes, heldout))

    # --- sampling ----------------------------------------------------------------------------

    def sample(self) -> Batch:
        """The next batch. Raises DataError when there are too few rows for one sequence."""
        if self._sampler is None:
            self._sampler = self._new_sampler()
        return self._sampler.sample()

    def _new_sampler(self) -> SequenceSampler:
        from bb_wm.data import SequenceSampler

        settings = self._settings
        sampler = SequenceSampler(
            cast("EpisodeStore", self._seen),
            batch_size=settings.batch_size,
            length=settings.length,
            seed=settings.seed,
        )
        if self._sampler_state is not None:
            sampler.load_state_dict(self._sampler_state)
        return sampler

    def sampler_state(self) -> Any:
        """What `restore` needs; None while nothing was sampled."""
        return self._sampler_state if self._sampler is None else self._sampler.state_dict()
