"""Smells while training: looked for where the held-out rows are judged, told once each.

What a smell is, is not known here: whoever builds the watch hands in the look (the command line
hands in `bb_wm.diagnose`'s). A look sees the model inside the trainer's own judging, so it changes
nothing that is learnt, and nothing of it goes to metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bb_wm.learn.callbacks import Callback, Record

if TYPE_CHECKING:
    from bb_wm.learn.trainer import Evaluate
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

Look = Callable[["WorldModel", "Sequence[Episode]"], Mapping[str, str]]
"""Name -> a sentence for every smell that can be judged; "" where it is not there."""

PATIENCE: Final = 2
"""Looks in a row that must find a smell: a model early in training passes through some."""


class SmellWatch(Callback):
    """Tells `tell` of every smell once, by `noticed`, and shows `draw` all of them at every look.

    Hand `watch.judging(evaluate)` to the trainer as its evaluation and the watch itself as a
    callback. `draw` receives records of their own with 1 where a smell is, named "smell_...".
    """

    def __init__(
        self,
        look: Look,
        *,
        tell: Iterable[Callback] = (),
        draw: Iterable[Callback] = (),
        patience: int = PATIENCE,
    ) -> None:
        self._look = look
        self._tell, self._draw = tuple(tell), tuple(draw)
        self._patience = patience
        self._seen: Mapping[str, str] = {}
        self._in_a_row: dict[str, int] = {}
        self.told: list[str] = []

    def judging(self, evaluate: Evaluate) -> Evaluate:
        """`evaluate`, followed by a look."""

        def judge(model: WorldModel, episodes: Sequence[Episode]) -> Mapping[str, float]:
            numbers = evaluate(model, episodes)
            self._seen = self._look(model, episodes)
            return numbers

        return judge

    def evaluated(self, record: Record) -> None:
        for name, sentence in self._seen.items():
            count = self._in_a_row.get(name, 0) + 1 if sentence else 0
            self._in_a_row[name] = count
            if count >= self._patience and name not in self.told:
                self.told.append(name)
                for listener in self._tell:
                    listener.noticed(f"smell at update {record.update}: {sentence}")
        if not self._seen:
            return
        numbers = {
            f"smell_{name.lower().replace(' ', '_')}": float(bool(sentence))
            for name, sentence in self._seen.items()
        }
        shown = Record("evaluate", record.update, record.rows, record.episodes, numbers)
        for listener in self._draw:
            listener.evaluated(shown)
