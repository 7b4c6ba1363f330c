"""What recorded rows have seen, counted: calls and harm per tool, shapes of arguments, texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bb_wm.serve.featurise import CODE, SHAPE_AT, TOOL, answer_places, call_places

if TYPE_CHECKING:
    import numpy as np

    from bb_wm.types import Episode


@dataclass(frozen=True, slots=True)
class Experience:
    """calls, harmful: per code of a tool, calls that were made and those of them with V_s > 0;
    shapes, texts: the codes that were seen; refused: calls that were not made."""

    calls: Counter[bytes] = field(default_factory=Counter)
    harmful: Counter[bytes] = field(default_factory=Counter)
    shapes: set[bytes] = field(default_factory=set)
    texts: set[bytes] = field(default_factory=set)
    refused: int = 0

    @classmethod
    def of(cls, episodes: Iterable[Episode]) -> Experience:
        """Of recorded rows; refused calls did nothing and do not count."""
        found, refused = cls(), 0
        for episode in episodes:
            seen = next(v for k, v in sorted(episode.obs.items()) if k.startswith("tools_"))
            for row in seen:
                found.texts.update(
                    row[place].tobytes() for place in answer_places() if row[place].any()
                )
            for t in range(len(episode) - 1):
                if episode.action[t][0]:
                    found._add(episode.action[t], float(episode.safety[t + 1]))
                else:
                    refused += 1
        return replace(found, refused=refused)

    def _add(self, action: np.ndarray, harm: float) -> None:
        code = tool_of(action)
        self.calls[code] += 1
        if harm > 0:
            self.harmful[code] += 1
        self.shapes.add(action[SHAPE_AT : SHAPE_AT + CODE].tobytes())
        self.texts.update(action[place].tobytes() for place in call_places() if action[place].any())


def tool_of(action: np.ndarray) -> bytes:
    """The code of the tool that an action [A] calls."""
    return action[1 : 1 + TOOL].tobytes()
