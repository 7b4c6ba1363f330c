"""The rows of an environment that somebody else drives, one episode after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bb_wm.data.recorder import MASK_KEY
from bb_wm.data.rows import EpisodeBuilder
from bb_wm.decide.evidence import Fault
from bb_wm.types import ActionSpec, Episode, ObsSpec


class EnvRecording:
    """The episode being recorded, given to `record` when it ends; None records nothing.

    What goes wrong is told to `note` and blocks nothing: the rows before it become an abandoned
    episode, and recording goes on with the next one.
    """

    def __init__(
        self,
        obs_spec: ObsSpec,
        action_spec: ActionSpec,
        record: Callable[[Episode], object] | None,
        risk: Callable[..., float],
        note: Callable[[Fault], None],
    ) -> None:
        self._record, self._risk, self._note = record, risk, note
        self._builder: EpisodeBuilder | None = None
        if record is not None:
            self._builder = EpisodeBuilder(obs_spec, action_spec)
        self._open = False

    def start(self, obs: Any, info: Any) -> None:
        """Row 0 of a new episode; what is available comes in info["action_mask"], if anywhere."""
        if self._builder is not None:
            self._open = self._tried(lambda b: b.start(obs, action_mask=info.get(MASK_KEY)))

    def step(
        self, before: Any, action: Any, obs: Any, reward: Any, ended: bool, cut: bool, info: Any
    ) -> None:
        """What `action`, done after `before`, led to."""

        def keep(builder: EpisodeBuilder) -> None:
            builder.step(
                action,
                obs,
                reward=reward,
                terminated=bool(ended),
                truncated=bool(cut),
                risk=float(self._risk(before, action, obs, float(reward), bool(ended), info)),
                action_mask=info.get(MASK_KEY),
            )

        if self._open and not self._tried(keep):
            self._close(lambda b: b.abandon())
        elif self._open and (ended or cut):
            self._close(lambda b: b.finish())

    def stop(self) -> None:
        """The agent starts anew before the end: what there is, as truncated."""
        if self._open:
            self._close(lambda b: b.cut() if b.rows > 1 else b.abandon())

    def _close(self, take: Callable[[EpisodeBuilder], Episode | None]) -> None:
        def give(builder: EpisodeBuilder) -> None:
            assert self._record is not None
            episode = take(builder)
            if episode is not None:
                self._record(episode)

        self._open = False
        self._tried(give)

    def _tried(self, do: Callable[[EpisodeBuilder], object]) -> bool:
        assert self._builder is not None
        try:
            do(self._builder)
        except Exception as error:
            self._note(Fault.of(error, "recording"))
            return False
        return True
