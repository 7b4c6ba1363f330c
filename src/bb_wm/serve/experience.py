"""What a run folder holds for a judge: its model, and what its rows have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bb_wm.serve.featurise import CODE, SHAPE_AT, TOOL, answer_places, call_places

if TYPE_CHECKING:
    from bb_wm.types import Episode


def experience_of(
    episodes: Iterable[Episode],
) -> tuple[Counter[bytes], set[bytes], set[bytes], set[bytes]]:
    """(calls per tool, argument shapes, texts, tools that did harm) of recorded rows."""
    recorded: Counter[bytes] = Counter()
    shapes: set[bytes] = set()
    texts: set[bytes] = set()
    harmful: set[bytes] = set()
    for episode in episodes:
        seen = next(v for k, v in sorted(episode.obs.items()) if k.startswith("tools_"))
        for row in seen:
            texts.update(row[place].tobytes() for place in answer_places() if row[place].any())
        for t in range(len(episode) - 1):
            action = episode.action[t]
            if not action[0]:
                continue
            code = action[1 : 1 + TOOL].tobytes()
            recorded[code] += 1
            shapes.add(action[SHAPE_AT : SHAPE_AT + CODE].tobytes())
            texts.update(action[place].tobytes() for place in call_places() if action[place].any())
            if episode.safety[t + 1] > 0:
                harmful.add(code)
    return recorded, shapes, texts, harmful
