"""One page as a Gymnasium environment: real clicks and keys, destructive ones told beforehand."""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np

from bb_wm.errors import ActionError, ConfigError, DataError
from bb_wm.worlds.browser.chromium import Aim, Chromium
from bb_wm.worlds.browser.features import FEATURES, FIELDS, HASH, see_page, see_task
from bb_wm.worlds.browser.tasks import TASKS

WAIT: Final = 0  # the action that does nothing; every gate's fallback here
PICTURE: Final = (84, 64, 3)


class BrowserPage(gymnasium.Env[dict[str, Any], np.int64]):
    """A task of MiniWoB++ in a headless Chromium; docs/browser.md.

    Observations are those of `bb_wm.worlds.browser.features` with N = `elements` rows, by default
    as many as the task's pages need; with `screenshot` also the key "screenshot", uint8
    [84, 64, 3]. The last row of an episode that ended shows an empty page.

    Actions, Discrete(1 + 3 N):

        0                        nothing is done
        1 + i                    click on element i
        1 + N + 2 i + k          type the task's field k into element i, over what stands there

    `info["action_mask"]` (int8) is 1 for what can be done on the page as it is seen; anything else
    does nothing. `info["cost"]` is 1 where the click was destructive, told from the element under
    the pointer before the click was sent. `info["more"]`: elements that had no row.

    The reward is the task's own, without its share for speed: 1 solved, below 0 done wrong. An
    episode ends by that or, truncated, after `steps` actions; never by the clock. Raises
    MissingExtraError where no browser is installed, DataError where it dies; `reset` starts anew.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        task: str = "click-test-2",
        elements: int | None = None,
        steps: int = 12,
        screenshot: bool = False,
        timeout_s: float = 60.0,
        render_mode: str | None = None,
    ) -> None:
        if task not in TASKS:
            raise ConfigError("task", expected=f"one of {', '.join(TASKS)}", actual=repr(task))
        elements = TASKS[task].elements if elements is None else elements
        for name, value in (("elements", elements), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
                raise ConfigError(name, expected="an int in 1..1000", actual=repr(value))
        self.render_mode = render_mode
        self.task, self.elements, self.steps = task, elements, steps
        self._picture, self._timeout = screenshot, timeout_s
        self._browser: Chromium | None = None
        box = gymnasium.spaces.Box
        spaces: dict[str, Any] = {
            "elements": box(-1.0, 1.0, (elements, FEATURES), np.float32),
            "task": box(-1.0, 1.0, (FIELDS, HASH), np.float32),
        }
        if screenshot:
            spaces["screenshot"] = box(0, 255, PICTURE, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.actions = 1 + elements * (1 + FIELDS)
        self.action_space = gymnasium.spaces.Discrete(self.actions)
        self.fields: dict[str, str] = {}
        self.utterance = ""
        self._mask = np.zeros(self.actions, np.int8)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        from miniwob.fields import get_field_extractor

        if self._browser is None or not self._browser.alive:
            self._browser = Chromium(self.task, self._timeout)
        self.utterance = self._browser.begin(int(self.np_random.integers(2**31)))
        self.fields = dict(get_field_extractor(self.task)(self.utterance))
        self._row = 0
        obs, told = self._seen()
        return obs, {"cost": 0.0, "solved": False, **{k: told[k] for k in ("action_mask", "more")}}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ActionError(
                "action", expected=f"an index below {self.actions}", actual=repr(action)
            )
        cost = self._act(int(action))
        self._row += 1
        obs, told = self._seen()
        reward, ended = told.pop("reward"), told.pop("done")
        info = {"cost": cost, "solved": ended and reward > 0, **told}
        return obs, reward, ended, not ended and self._row >= self.steps, info

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()
            self._browser = None

    def risk(self, action: Any) -> float:
        """What info["cost"] would be if `action` were done now, in 0 or 1; nothing is done."""
        aim, _ = self._aimed(int(action))
        return 0.0 if aim is None else float(aim.destructive)

    def _aimed(self, action: int) -> tuple[Aim | None, str | None]:
        """Where the click of an action lands, and the text to type there; None does nothing."""
        if action == WAIT or not self._mask[action]:
            return None, None
        index, text = action - 1, None
        if index >= self.elements:
            index, field = divmod(index - self.elements, FIELDS)
            text = list(self.fields.values())[field]
        return self._open().aim(index, self.task, self.fields), text

    def _act(self, action: int) -> float:
        """Do it; gives its cost, known before anything was sent."""
        aim, text = self._aimed(action)
        if aim is None:
            return 0.0
        browser = self._open()
        browser.click(aim)
        if text is not None:
            browser.type(text)
        return float(aim.destructive)

    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        browser = self._open()
        page = browser.ask("see", self.elements)
        wanted = list(self.fields.values())
        obs: dict[str, Any] = {
            "elements": see_page(page["elements"], wanted, self.elements),
            "task": see_task(wanted),
        }
        if self._picture:
            obs["screenshot"] = browser.screenshot(*PICTURE[:2])
        self._mask = self._possible(page["elements"])
        told = {
            "action_mask": self._mask.copy(),
            "more": int(page["more"]),
            "reward": float(page["reward"]),
            "done": bool(page["done"]),
        }
        return obs, told

    def _possible(self, listed: list[dict[str, Any]]) -> np.ndarray:
        count, mask = self.elements, np.zeros(self.actions, np.int8)
        mask[WAIT] = 1
        for i, element in enumerate(listed):
            mask[1 + i] = element["here"]
            if element["here"] and element["typed"]:
                first = 1 + count + FIELDS * i
                mask[first : first + min(FIELDS, len(self.fields))] = 1
        return mask

    def _open(self) -> Chromium:
        if self._browser is None:
            raise DataError("page", expected="reset() first", actual="no browser is running")
        return self._browser
