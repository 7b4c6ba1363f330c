"""What a run folder holds for a judge: its model, and what its rows have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bb_wm.errors import CheckpointError
from bb_wm.serve.featurise import CODE, SHAPE_AT, TOOL, answer_places, call_places

if TYPE_CHECKING:
    from bb_wm.learn.run import Run
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode


def model_of_run(run: Run) -> WorldModel:
    """The run's newest model that is whole, whether a command or the library began the run."""
    from bb_wm.config import WorldModelConfig
    from bb_wm.learn.checkpoint import load_checkpoint
    from bb_wm.rssm import WorldModel
    from bb_wm.types import ActionSpec, ObsSpec

    if "settings" not in run.config:
        return run.load_model()
    try:
        obs = ObsSpec.from_json(run.config["obs"])
        action = ActionSpec.from_json(run.config["action"])
        config = WorldModelConfig.from_json(run.config["settings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "run.json", expected="the model's settings and spaces", actual=repr(error)
        ) from error
    model = WorldModel(obs, action, config)
    model.load_state_tensors(load_checkpoint(run.checkpoints).part("model"))
    return model


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
