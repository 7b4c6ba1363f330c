"""Run by another Python (3.8 to 3.10) that has safety-gymnasium: one environment, one line a word.

Standard input takes one JSON object a line, standard output answers with one. It imports nothing of
bb_wm, which that Python cannot run.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Say the spaces, then answer reset, step and close until standard input ends."""
    words = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print must not get between the answers

    def say(**answer: Any) -> None:
        words.write(json.dumps(answer) + "\n")
        words.flush()

    numpy: Any = importlib.import_module("numpy")
    env: Any = importlib.import_module("safety_gymnasium").make(sys.argv[1])
    spaces = {"obs": env.observation_space, "action": env.action_space}
    say(**{k: {"low": s.low.tolist(), "high": s.high.tolist()} for k, s in spaces.items()})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "close":
            break
        if asked["do"] == "reset":
            obs, _ = env.reset(seed=asked["seed"])
            say(obs=numpy.asarray(obs, float).tolist())
            continue
        action = numpy.asarray(asked["action"], env.action_space.dtype)
        obs, reward, cost, terminated, truncated, _ = env.step(action)
        say(
            obs=numpy.asarray(obs, float).tolist(),
            reward=float(reward),
            cost=float(cost),
            terminated=bool(terminated),
            truncated=bool(truncated),
        )
    env.close()


if __name__ == "__main__":
    main()
